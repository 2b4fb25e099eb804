"""The heartbeat of a worker: a time that the worker sets and the master reads."""

import os
import time


class Heartbeat:
    """A file in anonymous memory whose modification time is the time of the last beat, as gunicorn's ``WorkerTmp``.

    gunicorn's own is a file in a directory. Where that directory has no room for one more file, the master would end.
    """

    def __init__(self, _: object) -> None:
        """Made by the master before the fork, and inherited. The argument, gunicorn's settings, is not used."""
        self._descriptor = os.memfd_create("heartbeat", os.MFD_CLOEXEC)

    def notify(self) -> None:
        """Beat."""
        now = time.monotonic()
        os.utime(self._descriptor, (now, now))

    def last_update(self) -> float:
        """The monotonic time of the last beat; before the first one, the time of day at which it was made."""
        return os.fstat(self._descriptor).st_mtime

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close it in this process."""
        os.close(self._descriptor)

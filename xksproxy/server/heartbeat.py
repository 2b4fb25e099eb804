"""The heartbeat of a worker: a time that the worker sets and the master reads."""

import os
import time


class Heartbeat:
    """A file in anonymous memory whose modification time is that of the last heartbeat, like gunicorn's ``WorkerTmp``.

    gunicorn's own file is in a directory. If that directory were full, the master would end.
    """

    def __init__(self, _: object) -> None:
        """Make the file, in the master, before the fork. The argument, gunicorn's settings, is not used."""
        self._descriptor = os.memfd_create("heartbeat", os.MFD_CLOEXEC)

    def notify(self) -> None:
        """Set the time of the heartbeat to now."""
        now = time.monotonic()
        os.utime(self._descriptor, (now, now))

    def last_update(self) -> float:
        """The monotonic time of the last heartbeat; before the first, the Unix time at which the file was made."""
        return os.fstat(self._descriptor).st_mtime

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the file in this process."""
        os.close(self._descriptor)

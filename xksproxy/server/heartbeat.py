"""The heartbeat of a worker: a time that the worker sets and the master reads."""

import os
import time
from typing import Final

_START_SECONDS: Final = 90.0
"""How much longer than usual the first heartbeat may take. A worker with 10,000 key stores needs some seconds."""


class Heartbeat:
    """A file in anonymous memory whose modification time is that of the last heartbeat, like gunicorn's ``WorkerTmp``.

    gunicorn's own file is in a directory. If that directory were full, the master would end. And gunicorn's file has a
    Unix time before the first heartbeat, which is later than each monotonic time, so that a worker that hangs while it
    starts would never be ended.
    """

    def __init__(self, _: object) -> None:
        """Make the file, in the master, before the fork. The argument, gunicorn's settings, is not used."""
        self._descriptor = os.memfd_create("heartbeat", os.MFD_CLOEXEC)
        self._first_due = time.monotonic() + _START_SECONDS
        os.utime(self._descriptor, (0, 0))

    def notify(self) -> None:
        """Set the time of the heartbeat to now."""
        now = time.monotonic()
        os.utime(self._descriptor, (now, now))

    def last_update(self) -> float:
        """The monotonic time of the last heartbeat; before the first, a time 90 s after the file was made."""
        return os.fstat(self._descriptor).st_mtime or self._first_due

    def seconds_ago(self) -> float | None:
        """How many seconds ago the last heartbeat was; None before the first."""
        last = os.fstat(self._descriptor).st_mtime
        return time.monotonic() - last if last else None

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the file in this process."""
        os.close(self._descriptor)

"""Counts the calls inside a module, so that C_Finalize is never called while one runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from xksproxy.hsm import _native
from xksproxy.hsm.errors import SessionLost


class ModuleLock(_native.ModuleLock):
    """While it is open, any number of threads may be inside. While it is closed, no thread can enter.

    C_Finalize during a call crashes the process. ``generation`` is the number of times that the module was initialised
    again; see :meth:`renew`.
    """

    def __enter__(self) -> None:
        """Enter; the thread is inside while the block runs.

        Raises:
            SessionLost: the lock is closed, and every session is about to end.
        """
        if not self.enter():
            raise SessionLost("the module is being initialised again")

    def __exit__(self, *_: object) -> None:
        """Leave, and wake the thread that waits for the last one to leave."""
        self.leave()

    @contextmanager
    def closed(self, timeout: float) -> Iterator[bool]:
        """Close it while the block runs. The value says whether all threads left within ``timeout`` seconds."""
        emptied = self.close(timeout)
        try:
            yield emptied
        finally:
            self.open()

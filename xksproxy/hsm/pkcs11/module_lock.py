"""Counting the calls inside a module, so that it is never finalised under one."""

from collections.abc import Iterator
from contextlib import contextmanager

from xksproxy.hsm import _native
from xksproxy.hsm.errors import SessionLost


class ModuleLock(_native.ModuleLock):
    """Open, any number of threads pass; closed, none does. C_Finalize under a running call crashes the process.

    It knows how often its module was initialised again: ``generation``, which :meth:`renew` counts.
    """

    def __enter__(self) -> None:
        """Be inside while the block runs.

        Raises:
            SessionLost: the module_lock is closed; every session is about to be gone.
        """
        if not self.enter():
            raise SessionLost("the module is being initialised again")

    def __exit__(self, *_: object) -> None:
        """Leave, and tell who waits for that."""
        self.leave()

    @contextmanager
    def closed(self, timeout: float) -> Iterator[bool]:
        """Close the module_lock while the block runs; the value is whether all had left within ``timeout`` seconds."""
        emptied = self.close(timeout)
        try:
            yield emptied
        finally:
            self.open()

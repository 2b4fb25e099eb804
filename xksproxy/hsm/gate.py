"""Counting the calls inside a module, so that it is never finalised under one."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xksproxy.hsm.errors import SessionLost


class Gate:
    """Open, any number of threads pass; closed, none does. C_Finalize under a running call crashes the process."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        """Guards both fields."""
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        """Be inside while the block runs.

        Raises:
            SessionLost: the gate is closed; every session is about to be gone.
        """
        with self._condition:
            if self._closed:
                raise SessionLost("the module is being initialised again")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        """Leave, and tell who waits for that."""
        with self._condition:
            self._inside -= 1
            if self._closed:
                self._condition.notify_all()

    @contextmanager
    def closed(self, timeout: float) -> Iterator[bool]:
        """Close the gate while the block runs; the value is whether all had left within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        with self._condition:
            self._closed = True
            emptied = self._condition.wait_for(lambda: self._inside == 0, end - time.monotonic())
        try:
            yield emptied
        finally:
            with self._condition:
                self._closed = False

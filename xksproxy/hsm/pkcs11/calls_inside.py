"""Which thread is inside which function of a module, and since when."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class CallInside(NamedTuple):
    """A call that has not returned."""

    function: str
    entered_at: float
    """On the monotonic clock, in seconds."""


class CallsInside:
    """The calls of one module that have not returned, by thread. Safe to use from any thread.

    A thread that waits for a lock, a file or the interpreter is not inside.
    """

    def __init__(self) -> None:
        self._calls: dict[int, CallInside] = {}

    def of_thread(self, thread: int) -> CallInside | None:
        """The call of a thread, by the thread's identifier."""
        return self._calls.get(thread)

    def enter(self, function: str) -> None:
        """Note that the calling thread enters a function now."""
        self._calls[threading.get_ident()] = CallInside(function, time.monotonic())

    def leave(self) -> None:
        """Note that the call of the calling thread has returned."""
        self._calls.pop(threading.get_ident(), None)

    @contextmanager
    def entered(self, function: str) -> Iterator[None]:
        """:meth:`enter`, then :meth:`leave` after the block."""
        self.enter(function)
        try:
            yield
        finally:
            self.leave()

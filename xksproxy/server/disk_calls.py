"""Calls of the master that wait for a file system, made beside its own work: a network disk may never answer."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

FORK_SECONDS: Final = 1.0
"""So long a fork waits for the calls. One that takes longer waits for a disk, and holds no lock of a library."""

Result = TypeVar("Result")


class DiskCalls:
    """Makes the calls one after another, in their order, on a thread that ends when none is left."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def later(self, call: Callable[[], Result]) -> "Future[Result]":
        """Make a call when those before it have returned. It fails at once if no thread can be started."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((call, future))
            if self._thread is None:
                self._start()
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="disk calls", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._waiting.pop()[1].set_exception(error)
        else:
            self._thread = thread

    def wait(self, call: Callable[[], Result], seconds: float) -> Result:
        """Make a call, and return its result, or raise its exception.

        Raises:
            TimeoutError: it has not returned after so many seconds. It goes on, or is still to be made.
        """
        return self.later(call).result(seconds)

    def settle(self, seconds: float) -> None:
        """Wait until all calls have returned, but no longer than so many seconds."""
        with suppress(TimeoutError):
            if self._thread is not None:
                self.wait(lambda: None, seconds)
                thread = self._thread
                if thread is not None:
                    thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                call, future = self._waiting.popleft()
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                future.set_exception(error)

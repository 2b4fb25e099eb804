"""Requests that wait until their audit lines are on disk."""

import asyncio
from collections import deque
from contextlib import suppress


class AwaitedLines:
    """Wakes tasks of an event loop when another thread has written the lines that they wait for."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()
        """The number of each line, in their order, and the result."""

    def expect(self, number: int) -> asyncio.Future[bool]:
        """The result for a line: whether it is on disk. Call it before the line is queued, on the event loop."""
        self._loop = asyncio.get_running_loop()
        result: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append((number, result))
        return result

    def report(self, number: int, *, on_disk: bool) -> None:
        """Say how all lines up to a number ended that have no result yet. May be called on any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._settle, number, on_disk)

    def _settle(self, number: int, on_disk: bool) -> None:  # noqa: FBT001 - a callback of the event loop
        while self._waiting and self._waiting[0][0] <= number:
            _, result = self._waiting.popleft()
            if not result.done():
                result.set_result(on_disk)

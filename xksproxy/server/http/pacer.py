"""Limits how many callbacks of low priority run in each iteration of the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable


class Pacer:
    """Runs a few callbacks in each iteration of the event loop, in the order in which they were added.

    Between two iterations the loop handles all other events. So many callbacks here delay others by only a few.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        """``turns`` is the number of callbacks that run in an iteration."""
        self._loop = loop
        self._turns = turns
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, turn: Callable[[], None]) -> None:
        """Call ``turn`` after the callbacks that were added before. It must not raise."""
        if not self._waiting:
            self._loop.call_soon(self._round)
        self._waiting.append(turn)

    def _round(self) -> None:
        for _ in range(min(self._turns, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._round)

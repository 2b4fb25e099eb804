"""Turns for those who can wait, so that many of them do not hold up those who cannot."""

import asyncio
from collections import deque
from collections.abc import Callable


class Pacer:
    """Lets a few callbacks run in each round of the event loop, in the order in which they came.

    Between two rounds the loop serves everybody else, so what waits here delays them by no more than a few callbacks.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        """``turns`` is how many run in a round."""
        self._loop = loop
        self._turns = turns
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, turn: Callable[[], None]) -> None:
        """Call this when its turn has come. It must not raise."""
        if not self._waiting:
            self._loop.call_soon(self._round)
        self._waiting.append(turn)

    def _round(self) -> None:
        for _ in range(min(self._turns, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._round)

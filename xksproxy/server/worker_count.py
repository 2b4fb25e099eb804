"""Whether all workers serve. The master knows, also of a worker that hangs or ends at each start."""

import mmap
import time
from typing import Final

STEADY_SECONDS: Final = 5.0
"""Workers are complete when they have been for so long, because some end soon after each start."""

PATIENCE_SECONDS: Final = 15.0
"""The time for a start, or for the replacement of a worker that has ended."""


class WorkerCount:
    """The workers that serve, of those that are configured, in anonymous memory that the master and its workers share.

    A file of the runtime directory could not be written where that is full.
    """

    def __init__(self) -> None:
        """Made by the master before it starts workers."""
        self._shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("I")
        self._complete_at = self._incomplete_at = time.monotonic()
        self._serving = 0

    def note(self, serving: int, wanted: int) -> None:
        """Note in the master, once a second, how many workers serve and how many are configured."""
        now = time.monotonic()
        if serving < wanted:
            self._incomplete_at, self._serving = now, serving
        if now - self._incomplete_at >= STEADY_SECONDS:
            self._complete_at = now
        self._shared[0] = self._serving
        self._shared[1] = wanted if now - self._complete_at >= PATIENCE_SECONDS else 0

    @property
    def problem(self) -> str:
        """Why workers are missing; empty if none is, or has not been for long."""
        serving, wanted = self._shared[0], self._shared[1]
        if not wanted:
            return ""
        return f"{serving} of {wanted} workers serve; the others hang or end when they start; the log says why"

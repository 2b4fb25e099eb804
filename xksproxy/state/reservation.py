"""Encryptions of one key that a process has put on record before it makes them."""

import math
import threading
import time
from typing import Final

_FIRST_BLOCK: Final = 16
_GROWTH: Final = 4
_LARGEST_BLOCK: Final = 16_384
_BLOCK_SECONDS: Final = 10.0
"""A block that lasts less than this is followed by a larger one."""

_RECORD_SECONDS: Final = 60.0
"""How often the time of last use is written while a key is in use."""

_REFUSED_SECONDS: Final = 1.0
"""For so long after a refusal, the record is not asked again."""


class LimitReached(Exception):
    """The key has reached its maximum number of encryptions."""


class Reservation:
    """The reserved encryptions of one key. They come in blocks that grow with the traffic.

    The owner of the reservations holds a lock for each method except :meth:`close`.
    """

    __slots__ = (
        "_block",
        "_granted",
        "_recorded_at",
        "_refused_at",
        "_refused_maximum",
        "_reserved_at",
        "closed",
        "lowest_maximum",
        "mutex",
        "reached",
        "refilling",
        "refusal",
        "total",
        "unused",
    )

    def __init__(self) -> None:
        self.unused = 0
        """Reserved encryptions that were not made yet."""
        self.lowest_maximum: int | None = None
        """The lowest maximum so far. Key stores that share a label may each have another one."""
        self.reached = 0
        """The highest count that the record has reached, as far as this process knows."""
        self.total = 0
        """All encryptions that this process has reserved. The record must never show fewer."""
        self.closed = False
        """The unused encryptions were returned; no further block is reserved."""
        self.refusal: Exception | None = None
        """Why the last block could not be reserved."""
        self.refilling = False
        """Whether a thread reserves the next block, or will."""
        self.mutex = threading.Lock()
        """Held while a block is reserved, so that two threads do not both reserve one."""
        self._granted = 0.0
        """The maximum under which the last block was reserved: the count on record was not above it."""
        self._block = 0
        self._reserved_at = 0.0
        self._recorded_at = 0.0
        self._refused_at = 0.0
        self._refused_maximum: int | None = None

    def take(self, maximum: int | None) -> bool:
        """Use one reserved encryption, and return whether there was one that this maximum allows.

        Of a lower maximum than that of the block, the record has to be asked: other processes may have made as many.
        """
        allowed = self.unused > 0 and (maximum is None or maximum >= self._granted)
        if allowed:
            self.unused -= 1
        return allowed

    def add(self, block: int, size: int, top: int, maximum: int | None, now: float) -> None:
        """Add the ``size`` encryptions that were reserved for a block. ``top`` is the count on record with them."""
        self.unused += size
        self.total += size
        self._granted = math.inf if maximum is None else maximum
        self.note(top, maximum)
        self._block, self.refusal = max(block, size), None
        self._reserved_at = self._recorded_at = now

    def refuse(self, refusal: Exception, maximum: int | None) -> None:
        """Note why no block could be reserved."""
        # The time after the wait for the lock, so that waiting threads do not each wait for as long.
        self.refusal, self._refused_at, self._refused_maximum = refusal, time.monotonic(), maximum
        if isinstance(refusal, LimitReached):
            self.note(maximum or 0, maximum)

    def recent_refusal(self, maximum: int | None) -> Exception | None:
        """The refusal of the last second, if it is one for this maximum too."""
        if not self._refused_recently(time.monotonic()):
            return None
        if isinstance(self.refusal, LimitReached):
            before = self._refused_maximum
            return self.refusal if maximum is not None and before is not None and maximum <= before else None
        return self.refusal

    def next_block(self, now: float) -> int:
        """The size of the next block. It grows while a block lasts less than 10 s, so that a busy key rarely waits."""
        if not self._block:
            return _FIRST_BLOCK
        if now - self._reserved_at < _BLOCK_SECONDS:
            return min(_LARGEST_BLOCK, self._block * _GROWTH)
        return self._block

    @property
    def low(self) -> bool:
        """Whether more than half of the last block is used."""
        return 2 * self.unused < self._block

    def needs_refill(self, now: float) -> bool:
        """Whether the record has to be written: for the next block, or for the time of last use."""
        return (self.low and not self._refused_recently(now)) or now - self._recorded_at >= _RECORD_SECONDS

    def note_recorded(self) -> None:
        """Note that the time of last use is written now."""
        self._recorded_at = time.monotonic()

    def note(self, reached: int, maximum: int | None) -> None:
        """Note a count that the record has reached, and a maximum."""
        self.reached = max(self.reached, reached)
        if maximum is not None and (self.lowest_maximum is None or maximum < self.lowest_maximum):
            self.lowest_maximum = maximum

    def close(self) -> int:
        """Let no further block be reserved, and return the number of unused encryptions."""
        with self.mutex:
            unused, self.unused, self.closed = self.unused, 0, True
        return unused

    def _refused_recently(self, now: float) -> bool:
        return self.refusal is not None and now - self._refused_at < _REFUSED_SECONDS

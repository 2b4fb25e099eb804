"""Detection of a wrong clock of this machine, from the times of correct signatures."""

from collections import deque
from statistics import median
from typing import Final, NamedTuple

_MAXIMUM_OBSERVATIONS: Final = 100
_WINDOW_SECONDS: Final = 300.0
_MINIMUM_REFUSED: Final = 3


class _Observation(NamedTuple):
    at: float
    offset: float
    refused: bool


class ClockObservations:
    """The offsets of this machine's clock from the times of the latest correct signatures. Belongs to one thread.

    At most 100 are kept, for five minutes. ``now`` is on the monotonic clock, in seconds. An offset is the number of
    seconds by which this machine's clock is ahead of the time of the signature, negative if the clock is behind.
    """

    def __init__(self) -> None:
        self._latest: deque[_Observation] = deque(maxlen=_MAXIMUM_OBSERVATIONS)

    def add(self, offset: float, *, refused: bool, now: float) -> None:
        """Add a correct signature. ``refused`` is whether its request was refused only for its time."""
        self._latest.append(_Observation(now, offset, refused))

    def offset(self, now: float) -> float | None:
        """The median of the offsets, or None without a signature."""
        offsets = [seen.offset for seen in self._recent(now)]
        return median(offsets) if offsets else None

    def error(self, now: float) -> float | None:
        """The median of the refused offsets if most signatures, and at least three, were refused; otherwise None."""
        seen = self._recent(now)
        refused = [item.offset for item in seen if item.refused]
        return median(refused) if len(refused) >= _MINIMUM_REFUSED and 2 * len(refused) > len(seen) else None

    def _recent(self, now: float) -> list[_Observation]:
        # A copy in one step, because another thread may add meanwhile.
        return [seen for seen in tuple(self._latest) if now - seen.at <= _WINDOW_SECONDS]

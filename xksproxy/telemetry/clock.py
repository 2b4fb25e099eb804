"""Whether this machine's clock differs from that of those who sign requests."""

from collections import deque
from statistics import median
from typing import Final, NamedTuple

_REMEMBERED: Final = 100
_WINDOW_SECONDS: Final = 300.0
_LEAST: Final = 3


class _Observation(NamedTuple):
    at: float
    offset: float
    refused: bool


class ClockObservations:
    """The times of the latest signatures that were right, as this machine's clock saw them. Belongs to one thread.

    At most 100 are kept, for five minutes. ``now`` is on the monotonic clock, in seconds. An offset says by how many
    seconds this machine's clock is ahead of the time of signature; it is negative if the clock is behind.
    """

    def __init__(self) -> None:
        self._latest: deque[_Observation] = deque(maxlen=_REMEMBERED)

    def add(self, offset: float, *, refused: bool, now: float) -> None:
        """Note a right signature, and whether its request was refused for its time alone."""
        self._latest.append(_Observation(now, offset, refused))

    def offset(self, now: float) -> float | None:
        """The median of the offsets; None without a signature."""
        offsets = [seen.offset for seen in self._within(now)]
        return median(offsets) if offsets else None

    def wrong_by(self, now: float) -> float | None:
        """The median of the offsets that were refused, if these are most of them and at least three; else None."""
        seen = self._within(now)
        refused = [item.offset for item in seen if item.refused]
        return median(refused) if len(refused) >= _LEAST and 2 * len(refused) > len(seen) else None

    def _within(self, now: float) -> list[_Observation]:
        return [seen for seen in self._latest if now - seen.at <= _WINDOW_SECONDS]

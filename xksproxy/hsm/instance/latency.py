"""The present duration of a call to an HSM."""

import time
from collections import deque
from typing import Final

_WEIGHT: Final = 1 / 8
_FRESH_SECONDS: Final = 1.0
_HALF_LIFE_SECONDS: Final = 2.0
_USUAL_OF: Final = 3
_STUCK_FACTOR: Final = 8.0
_LEAST_STUCK_SECONDS: Final = 1.0
_LEAST_SECONDS: Final = 0.0001


class Latency:
    """A moving average of the time of a call inside the module, in seconds. Belongs to the event loop.

    After 1 s without new samples it halves every 2 s, and the next sample replaces it. So if it causes calls to be
    refused, some are soon made again and measured, and one of them is enough to show that the HSM is faster.
    """

    def __init__(self) -> None:
        self._average = 0.0
        self._last: deque[float] = deque(maxlen=_USUAL_OF)
        self._sampled_at = 0.0

    def add(self, seconds: float) -> None:
        """Add a sample."""
        self._last.append(seconds)
        present = 0.0 if self.is_old else self.seconds()
        self._average = seconds if present == 0 else present + _WEIGHT * (seconds - present)
        self._sampled_at = time.monotonic()

    def seconds(self) -> float:
        """The seconds that a call takes at present; 0 if unknown."""
        idle = time.monotonic() - self._sampled_at - _FRESH_SECONDS
        average = self._average if idle <= 0 else self._average * 0.5 ** (idle / _HALF_LIFE_SECONDS)
        return average if average > _LEAST_SECONDS else 0.0

    @property
    def usual(self) -> float:
        """The median of the last three samples, which one slow call does not change; 0 if there are fewer."""
        return sorted(self._last)[_USUAL_OF // 2] if len(self._last) == _USUAL_OF else 0.0

    @property
    def is_old(self) -> bool:
        """Whether no sample was added in the last second."""
        return time.monotonic() - self._sampled_at > _FRESH_SECONDS

    @property
    def stuck_after(self) -> float:
        """The seconds inside the module after which a call counts as one that does not return."""
        return max(_LEAST_STUCK_SECONDS, _STUCK_FACTOR * self.seconds())

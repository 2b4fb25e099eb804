"""The limit for the time that searches for the unknown keys of one key store may take."""

import time
from typing import Final

SECONDS_AT_ONCE: Final = 2.0
SHARE: Final = 0.2
LEAST_SECONDS: Final = 0.002
_FIRST_GUESS_SECONDS: Final = 0.02
_MOST_LIKELY_SECONDS: Final = 0.05


class SearchAllowance:
    """A token bucket of search time: 0.2 s are added in each second, up to 2 s. A search costs 2 ms at least.

    A search takes from 0.1 ms to more than 100 ms, by the module and the number of keys on its token.
    """

    def __init__(self) -> None:
        self._seconds_left = SECONDS_AT_ONCE
        self._filled_at = time.monotonic()
        self._likely_seconds = _FIRST_GUESS_SECONDS

    def begin(self) -> float | None:
        """Subtract the expected time of a search, in seconds, and return it; None if less is left."""
        now = time.monotonic()
        self._seconds_left = min(SECONDS_AT_ONCE, self._seconds_left + SHARE * (now - self._filled_at))
        self._filled_at = now
        taken = self._likely_seconds
        if self._seconds_left < taken:
            return None
        self._seconds_left -= taken
        return taken

    def end(self, taken: float, seconds: float) -> None:
        """Replace the expected time, which :meth:`begin` returned as ``taken``, by the real one."""
        lasted = max(LEAST_SECONDS, seconds)
        self._seconds_left = max(-SECONDS_AT_ONCE, self._seconds_left + taken - lasted)
        self._likely_seconds = min(lasted, _MOST_LIKELY_SECONDS)

"""How much of the time of an HSM one key store may use up by requests that name unknown keys."""

import time
from typing import Final

SECONDS_AT_ONCE: Final = 2.0
SHARE: Final = 0.2
LEAST_SECONDS: Final = 0.002
_FIRST_GUESS_SECONDS: Final = 0.02
_MOST_LIKELY_SECONDS: Final = 0.05


class SearchAllowance:
    """Searches may last 0.2 seconds in each second, and 2 seconds at once; each counts as 2 ms at least.

    A search lasts from 0.1 ms to more than 100 ms: that depends on the module and on the number of keys on its token.
    """

    def __init__(self) -> None:
        self._seconds_left = SECONDS_AT_ONCE
        self._filled_at = time.monotonic()
        self._likely_seconds = _FIRST_GUESS_SECONDS

    def begin(self) -> float | None:
        """Take what a search is likely to last, and return it; None if that is more than what is left."""
        now = time.monotonic()
        self._seconds_left = min(SECONDS_AT_ONCE, self._seconds_left + SHARE * (now - self._filled_at))
        self._filled_at = now
        taken = self._likely_seconds
        if self._seconds_left < taken:
            return None
        self._seconds_left -= taken
        return taken

    def end(self, taken: float, seconds: float) -> None:
        """Correct what :meth:`begin` took, by how long the search has lasted."""
        lasted = max(LEAST_SECONDS, seconds)
        self._seconds_left = max(-SECONDS_AT_ONCE, self._seconds_left + taken - lasted)
        self._likely_seconds = min(lasted, _MOST_LIKELY_SECONDS)

"""How many searches for unknown keys requests may cause on one HSM."""

import time
from typing import Final

SEARCHES_PER_SECOND: Final = 10.0
SEARCHES_AT_ONCE: Final = 40.0


class SearchAllowance:
    """A token bucket. Each search costs an HSM time that grows with the number of its keys."""

    def __init__(self) -> None:
        self._left = SEARCHES_AT_ONCE
        self._filled_at = time.monotonic()

    def take(self) -> bool:
        """Take one search; False if none is left."""
        now = time.monotonic()
        self._left = min(SEARCHES_AT_ONCE, self._left + SEARCHES_PER_SECOND * (now - self._filled_at))
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

"""The request quota of custom key stores. All keys of a key store share it."""

from collections.abc import Callable
from typing import Final

from xksproxy_tools.kms_emulator.errors import KmsError

REQUESTS_PER_SECOND: Final = 1800
"""Cryptographic operations on the keys of one store."""


class StoreQuotas:
    """A token bucket for each key store. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float], requests_per_second: int = REQUESTS_PER_SECOND) -> None:
        """``clock`` is monotonic, in seconds."""
        self._clock = clock
        self._rate = requests_per_second
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, store_id: str) -> None:
        """Count one request.

        Raises:
            KmsError: ThrottlingException; the quota is used up.
        """
        now = self._clock()
        tokens, filled = self._buckets.get(store_id, (float(self._rate), now))
        tokens = min(float(self._rate), tokens + (now - filled) * self._rate)
        passes = tokens >= 1.0
        self._buckets[store_id] = tokens - 1.0 if passes else tokens, now
        if not passes:
            raise KmsError(
                "ThrottlingException",
                "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
            )

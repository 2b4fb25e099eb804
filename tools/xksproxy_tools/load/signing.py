"""Signs requests before they are sent, and again before their signatures expire."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from xksproxy_tools.load.requests import Request

FRESH_SECONDS: Final = 100.0
"""A signature older than this is replaced; a proxy accepts up to 300 s (R-AUTH-10)."""

_BATCH: Final = 8
_PAUSE_SECONDS: Final = 0.01


class SignedPool:
    """A pool of requests, used repeatedly. While :meth:`keep_fresh` runs, no signature is older than two minutes.

    A request may be sent again: the API has no replay protection, and the proxy uses another IV for each Encrypt.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._distinct = list(dict.fromkeys(requests))
        self._next = 0
        for request in self._distinct:
            if not request.wire:
                request.sign()

    def take(self) -> Request:
        """The next request."""
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        return request

    async def keep_fresh(self) -> None:
        """Sign old requests again, in small batches so that the event loop is blocked for less than a millisecond."""
        while True:
            old = [item for item in self._distinct if time.monotonic() - item.signed_at > FRESH_SECONDS]
            for batch in _batches(old):
                for request in batch:
                    request.sign()
                await asyncio.sleep(_PAUSE_SECONDS)
            await asyncio.sleep(1)


def _batches(requests: Sequence[Request]) -> Iterable[Sequence[Request]]:
    for start in range(0, len(requests), _BATCH):
        yield requests[start : start + _BATCH]

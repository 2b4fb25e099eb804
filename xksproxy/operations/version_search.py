"""The search for an unknown key version on the HSMs, with a limit on the number of searches."""

import asyncio
import time
from typing import Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import KeyMissing
from xksproxy.operations.engine import Engine
from xksproxy.operations.error_translation import hsm_errors_translated
from xksproxy.spec.errors import DependencyTimeoutException, ThrottlingException

_MISSING_SECONDS: Final = 5.0
_FOUND_SECONDS: Final = 60.0
_MAXIMUM_MISSING: Final = 32
"""The maximum number of remembered missing labels of one key. Each has needed a search on the HSMs."""


class VersionSearch:
    """Searches for key versions and remembers the results. One search runs at a time, on one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._found: dict[str, float] = {}
        self._missing: dict[str, dict[str, float]] = {}
        """By external key id and label. The values are the monotonic times at which a result expires."""

    async def exists(self, key_id: str, label: str, deadline: Deadline) -> bool:
        """Whether an HSM has a key with this label.

        A positive result is remembered for 60 s, a negative one for 5 s.

        Raises:
            ThrottlingException: 32 other versions of the key are remembered as missing.
            XksError: no HSM has the key and some HSM did not answer, or the deadline passed.
        """
        result = self._remembered(key_id, label)
        if result is not None:
            return result
        try:
            async with asyncio.timeout(deadline.remaining()), self._lock:
                # Another request may have searched for it while this one waited.
                result = self._remembered(key_id, label)
                return await self._search_and_remember(key_id, label, deadline) if result is None else result
        except TimeoutError:
            raise DependencyTimeoutException("The HSM did not answer in time") from None

    def _remembered(self, key_id: str, label: str) -> bool | None:
        """A result that has not expired, or None."""
        now = time.monotonic()
        if self._engine.has_seen(label) or self._found.get(label, 0.0) > now:
            return True
        return False if self._missing.get(key_id, {}).get(label, 0.0) > now else None

    async def _search_and_remember(self, key_id: str, label: str, deadline: Deadline) -> bool:
        now = time.monotonic()
        self._forget_expired_missing(now)
        missing = self._missing.get(key_id, {})
        if len(missing) >= _MAXIMUM_MISSING:
            raise ThrottlingException("Requests name too many versions of the external key that no HSM has")
        with hsm_errors_translated():
            found = await self._search(label, deadline)
        if found:
            self._found = {name: until for name, until in self._found.items() if until > now}
            self._found[label] = now + _FOUND_SECONDS
        else:
            self._missing[key_id] = {**missing, label: now + _MISSING_SECONDS}
        return found

    def _forget_expired_missing(self, now: float) -> None:
        """Forget expired results of all keys, because clients can invent any number of ids that match a pattern."""
        current = {
            key: {name: until for name, until in labels.items() if until > now} for key, labels in self._missing.items()
        }
        self._missing = {key: labels for key, labels in current.items() if labels}

    async def _search(self, label: str, deadline: Deadline) -> bool:
        try:
            await self._engine.describe_key(label, deadline)
        except KeyMissing:
            return False
        return True

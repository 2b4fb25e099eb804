"""Looking for a key version that nobody has heard of, before it is refused; and not too often."""

import asyncio
import time
from typing import Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import KeyMissing
from xksproxy.operations.engine import Engine
from xksproxy.operations.translate import hsm_errors_translated
from xksproxy.spec.errors import DependencyTimeoutException, ThrottlingException

_MISSING_SECONDS: Final = 5.0
_FOUND_SECONDS: Final = 60.0
_SEARCHES: Final = 32
"""Labels of one key that may be missing within those seconds; each cost the HSMs a search."""


class VersionSearch:
    """What was searched for lately, and whether it was found. One search at a time; belongs to one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._found: dict[str, float] = {}
        self._missing: dict[str, dict[str, float]] = {}
        """By external key id; the values are the monotonic times until when an answer is believed."""

    async def finds(self, key_id: str, label: str, deadline: Deadline) -> bool:
        """Whether an HSM has a version of a key; an answer is good for a while.

        Raises:
            ThrottlingException: too many other versions of the key were looked for in vain to look for this one too.
            XksError: it cannot be told by the deadline, or not every HSM could be asked.
        """
        known = self._known(key_id, label)
        if known is not None:
            return known
        try:
            async with asyncio.timeout(deadline.remaining()), self._lock:
                # Another request may have searched for it by now.
                known = self._known(key_id, label)
                return await self._finds(key_id, label, deadline) if known is None else known
        except TimeoutError:
            raise DependencyTimeoutException("The HSM did not answer in time") from None

    def _known(self, key_id: str, label: str) -> bool | None:
        """The answer that is still good, if there is one."""
        now = time.monotonic()
        if self._engine.has_seen(label) or self._found.get(label, 0.0) > now:
            return True
        return False if self._missing.get(key_id, {}).get(label, 0.0) > now else None

    async def _finds(self, key_id: str, label: str, deadline: Deadline) -> bool:
        now = time.monotonic()
        # Of all keys: a pattern makes as many ids as a client can think of.
        believed = {
            key: {name: until for name, until in labels.items() if until > now} for key, labels in self._missing.items()
        }
        self._missing = {key: labels for key, labels in believed.items() if labels}
        missing = self._missing.get(key_id, {})
        if len(missing) >= _SEARCHES:
            raise ThrottlingException("Too many versions of the external key are asked for that no HSM has")
        with hsm_errors_translated():
            found = await self._search(label, deadline)
        if found:
            self._found = {name: until for name, until in self._found.items() if until > now}
            self._found[label] = now + _FOUND_SECONDS
        else:
            self._missing[key_id] = {**missing, label: now + _MISSING_SECONDS}
        return found

    async def _search(self, label: str, deadline: Deadline) -> bool:
        try:
            await self._engine.describe_key(label, deadline)
        except KeyMissing:
            return False
        return True

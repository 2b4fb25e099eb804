"""The keys of one HSM, listed in the background."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_pool import SessionPool

_log: Final = logging.getLogger(__name__)
_LISTING_SECONDS: Final = 40.0
_PAUSE_FACTOR: Final = 30


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The keys of a token, as of one listing, by each of the names of a key: its label and its CKA_ID."""

    labels: frozenset[str] = frozenset()
    """The names of all keys."""

    ambiguous: frozenset[str] = frozenset()
    """Names that match several keys."""

    check_values: Mapping[str, bytes | None] = field(default_factory=dict)
    """The check value of each key; None if the token has none."""

    not_encrypting: frozenset[str] = frozenset()
    """Names of keys that may not encrypt."""

    not_decrypting: frozenset[str] = frozenset()
    """Names of keys that may not decrypt."""


class KeyListing:
    """The keys of the last listing. Its methods are called on the event loop.

    One listing takes less time than a search for each key. After each listing there is a pause of 30 times its
    duration. A failed listing does not count as a failure of the HSM.
    """

    def __init__(self, hsm_id: str, pool: SessionPool) -> None:
        self.keys = TokenKeys()
        """The keys, none before the first listing. A listing that finds a difference replaces the object."""
        self.listed_at = -math.inf
        """When the last listing began, on the monotonic clock; minus infinity before the first."""
        self.revision = 0
        """Grows when a listing differs from the one before. 0 before the first."""
        self._hsm_id = hsm_id
        self._pool = pool
        self._not_before = -math.inf
        self._first: asyncio.Task[None] | None = None

    @property
    def listed(self) -> bool:
        """Whether the keys were listed at least once."""
        return self.listed_at > -math.inf

    @property
    def running_first(self) -> bool:
        """Whether the listing that :meth:`begin` started has not ended yet."""
        return self._first is not None and not self._first.done()

    async def begin(self, seconds: float) -> None:
        """List the keys now, and wait at most ``seconds``. The listing continues in the background."""
        self._not_before = -math.inf
        self._first = asyncio.create_task(self.refresh())
        await asyncio.wait({self._first}, timeout=seconds)

    def stop(self) -> None:
        """Cancel the listing that :meth:`begin` started."""
        if self._first is not None:
            self._first.cancel()

    async def refresh(self) -> None:
        """List the keys, unless the pause after the last listing is not over."""
        started = time.monotonic()
        if started < self._not_before:
            return
        try:
            listed = await self._pool.submit(_list, Deadline.after(_LISTING_SECONDS))
        except HsmError as error:
            _log.warning("keys not listed", extra={"fields": {"hsm": self._hsm_id, "reason": str(error)}})
            return
        finally:
            now = time.monotonic()
            self._not_before = now + _PAUSE_FACTOR * (now - started)
        if listed != self.keys or not self.listed:
            self.keys, self._pool.labels = listed, listed.labels
            self.revision += 1
        self.listed_at = started


def _list(session: HsmSession) -> TokenKeys:
    """List the keys. It runs on the session's thread, because thousands of keys would block the event loop."""
    keys = session.list_keys()
    counts = Counter(name for key in keys for name in key.names)
    return TokenKeys(
        frozenset(counts),
        frozenset(label for label, count in counts.items() if count > 1),
        {name: key.check_value for key in keys for name in key.names},
        frozenset(name for key in keys if not key.can_encrypt for name in key.names),
        frozenset(name for key in keys if not key.can_decrypt for name in key.names),
    )

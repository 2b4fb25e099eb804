"""When each credential was last used, as far as this machine knows."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.state.statefile import SharedTable, StateUnusable

_log: Final = logging.getLogger(__name__)

RECORD_SECONDS: Final = 60.0
"""What is on record may be older than the truth by so many seconds."""


class CredentialUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is on record for one credential."""

    last_used: float
    """Seconds since 1970 at which a request that it signed was last verified."""


class CredentialUses:
    """The uses of a key store's credentials, by access key id, in one file that the processes of a machine share.

    Each process writes at most once a minute for each credential, so what is on record can be a minute old.
    """

    def __init__(self, state_directory: Path, keystore: str) -> None:
        self._table = SharedTable(state_directory / f"credentials-{keystore}.json", CredentialUse)
        self._pending: dict[str, float] = {}
        self._recorded_at: dict[str, float] = {}
        self._problem = ""

    def used(self, access_key_id: str) -> None:
        """Note a use; it costs a request nothing, since :meth:`flush` does the work."""
        self._pending[access_key_id] = time.time()

    def flush(self) -> None:
        """Record what was noted and is due. It waits for the disk: call it every second or so, on a thread."""
        now = time.monotonic()
        for access_key_id in self._pending.copy():
            if now - self._recorded_at.get(access_key_id, -RECORD_SECONDS) >= RECORD_SECONDS:
                self._recorded_at[access_key_id] = now
                self._record(access_key_id, self._pending.pop(access_key_id))

    def last_used(self, access_key_ids: tuple[str, ...]) -> Mapping[str, float]:
        """What is on record for those that were ever used.

        Raises:
            StateUnusable: the record cannot be read.
        """
        self._table.refresh()
        found = {access_key_id: self._table.get(access_key_id) for access_key_id in access_key_ids}
        return {access_key_id: use.last_used for access_key_id, use in found.items() if use is not None}

    def _record(self, access_key_id: str, at: float) -> None:
        def later(known: CredentialUse | None) -> CredentialUse:
            return known if known is not None and known.last_used >= at else CredentialUse(at)

        try:
            self._table.update(access_key_id, later)
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("the use of a credential cannot be recorded", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
        else:
            self._problem = ""

"""When each credential was last used on this machine."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.state.audit_spool import leave_event
from xksproxy.state.state_file import SharedTable, StateUnusable

_log: Final = logging.getLogger(__name__)

RECORD_SECONDS: Final = 60.0
"""A recorded time may be this many seconds older than the last use."""


class CredentialUse(msgspec.Struct, frozen=True):
    """The record of one credential."""

    last_used: float
    """Unix time in seconds of the last request with a valid signature by this credential."""


class CredentialUses:
    """Uses of a key store's credentials, by access key id, in one file that the processes of a machine share.

    Each process writes at most once a minute for each credential, so a record can be one minute old.
    """

    def __init__(self, state_directory: Path, keystore: str) -> None:
        self.directory, self._keystore = state_directory, keystore
        self._table = SharedTable(state_directory / f"credentials-{keystore}.json", CredentialUse)
        self._pending: dict[str, float] = {}
        self._recorded_at: dict[str, float] = {}
        self._problem = ""

    def mark_used(self, access_key_id: str) -> None:
        """Remember a use in memory; :meth:`flush` writes it."""
        self._pending[access_key_id] = time.time()

    def flush(self) -> None:
        """Write the uses that are due. Waits for the disk: call it about once a second, on a thread."""
        now = time.monotonic()
        for access_key_id in self._pending.copy():
            if now - self._recorded_at.get(access_key_id, -RECORD_SECONDS) >= RECORD_SECONDS:
                self._recorded_at[access_key_id] = now
                self._record(access_key_id, self._pending.pop(access_key_id))

    def last_used(self, access_key_ids: tuple[str, ...]) -> Mapping[str, float]:
        """Recorded times of last use, as Unix times in seconds; a credential without a record is left out.

        Raises:
            StateUnusable: the file cannot be read.
        """
        self._table.refresh()
        uses = {access_key_id: self._table.get(access_key_id) for access_key_id in access_key_ids}
        return {access_key_id: use.last_used for access_key_id, use in uses.items() if use is not None}

    def _record(self, access_key_id: str, at: float) -> None:
        first = False

        def latest(recorded: CredentialUse | None) -> CredentialUse:
            nonlocal first
            first = recorded is None
            return recorded if recorded is not None and recorded.last_used >= at else CredentialUse(at)

        try:
            self._table.update(access_key_id, latest)
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("the use of a credential cannot be recorded", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
            return
        self._problem = ""
        if first:
            fields = {"keystore": self._keystore, "access_key_id": access_key_id, "before": None, "after": at}
            leave_event(self.directory, "credential first used", fields)

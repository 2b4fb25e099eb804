"""When each credential was last used on this machine."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.state.audit_spool import leave_event
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable, UnixTime

_log: Final = logging.getLogger(__name__)

RECORD_SECONDS: Final = 60.0
"""A recorded time may be this many seconds older than the last use."""

_PAUSE_FACTOR: Final = 20.0
"""Writing takes at most this part of the time."""


class CredentialUse(msgspec.Struct, frozen=True):
    """The record of one credential."""

    last_used: UnixTime
    """Unix time in seconds of the last request with a valid signature by this credential."""


class UseRecord:
    """Uses of all credentials, in one file that the processes of a machine share: one write for all that are due.

    Each process writes at most once a minute for each credential, so a record can be one minute old.
    """

    def __init__(self, state_directory: Path) -> None:
        self.directory = state_directory
        self._table = SharedTable(state_directory, "credential-uses.json", CredentialUse)
        self._pending: dict[tuple[str, str], float] = {}
        self._recorded_at: dict[tuple[str, str], float] = {}
        self._not_before = 0.0
        self._problem = ""

    def mark_used(self, keystore: str, access_key_id: str) -> None:
        """Remember a use in memory; :meth:`flush` writes it."""
        self._pending[keystore, access_key_id] = time.time()

    def flush(self) -> None:
        """Write the uses that are due. Waits for the disk: call it about once a second, on a thread."""
        now = time.monotonic()
        if now < self._not_before:
            return
        due = {
            key: self._pending.pop(key)
            for key in self._pending.copy()
            if now - self._recorded_at.get(key, -RECORD_SECONDS) >= RECORD_SECONDS
        }
        if due:
            self._recorded_at.update(dict.fromkeys(due, now))
            self._record(due)
            ended = time.monotonic()
            self._not_before = ended + _PAUSE_FACTOR * (ended - now)

    def get(self, keystore: str, access_key_id: str) -> float | None:
        """One recorded time, as this process last read it."""
        use = self._table.get(f"{keystore}/{access_key_id}")
        return None if use is None else use.last_used

    def refresh(self) -> None:
        """Read the file if it has changed (StateUnusable if it cannot be read)."""
        self._table.refresh()

    def _record(self, due: Mapping[tuple[str, str], float]) -> None:
        uses = {"/".join(key): CredentialUse(at) for key, at in due.items()}
        try:
            new = self._table.merge(uses, _later)
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("the use of a credential cannot be recorded", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
            return
        self._problem = ""
        for (keystore, access_key_id), at in due.items():
            if f"{keystore}/{access_key_id}" in new:
                self._leave_first_use(keystore, access_key_id, at)

    def _leave_first_use(self, keystore: str, access_key_id: str, at: float) -> None:
        former = _former_table(self.directory, keystore)
        try:
            former.refresh()
        except StateUnusable:
            return
        if former.get(access_key_id) is None:
            fields = {"keystore": keystore, "access_key_id": access_key_id, "before": None, "after": at}
            leave_event(self.directory, "credential first used", fields)


class CredentialUses:
    """The uses of one key store's credentials, by access key id."""

    def __init__(self, state_directory: Path, keystore: str, record: UseRecord | None = None) -> None:
        """``record`` is that of all key stores; without it, one of its own."""
        self.directory, self._keystore = state_directory, keystore
        self.record = record or UseRecord(state_directory)
        self._has_former = True
        """Whether earlier releases may have written uses, for credentials that were not used since."""

    def mark_used(self, access_key_id: str) -> None:
        """Remember a use in memory; the record's :meth:`~UseRecord.flush` writes it."""
        self.record.mark_used(self._keystore, access_key_id)

    def last_used(self, access_key_ids: tuple[str, ...]) -> Mapping[str, float]:
        """Recorded times of last use, as Unix times in seconds; a credential without a record is left out.

        Raises:
            StateUnusable: a file cannot be read.
        """
        self.record.refresh()
        uses = {access_key_id: self.record.get(self._keystore, access_key_id) for access_key_id in access_key_ids}
        if None in uses.values() and self._has_former:
            former = _former_table(self.directory, self._keystore)
            former.refresh()
            before = former.entries()
            uses = {name: at or (before[name].last_used if name in before else None) for name, at in uses.items()}
            self._has_former = bool(before)
        return {access_key_id: at for access_key_id, at in uses.items() if at is not None}


def _former_table(state_directory: Path, keystore: str) -> SharedTable[CredentialUse]:
    """The file of one key store, as releases before the one file for all wrote it."""
    return SharedTable(state_directory, f"credentials-{keystore}.json", CredentialUse)


def _later(recorded: CredentialUse | None, use: CredentialUse) -> CredentialUse:
    return recorded if recorded is not None and recorded.last_used >= use.last_used else use

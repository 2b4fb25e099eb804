"""The table of the versions of an external key."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from xksproxy.hsm.keys import KeyDescription
from xksproxy.keystore.key_map import ExternalKey
from xksproxy.rotation.version_states import VersionState, state_of
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import VersionRecord

VERSION_COLUMNS: Final = (
    "VERSION",
    "LABEL",
    "ROLE",
    "ON THE TOKEN",
    "ENCRYPTIONS",
    "OF AT MOST",
    "LAST ENCRYPTED",
    "LAST DECRYPTED",
)

_ROLES: Final[Mapping[VersionState, str]] = {
    VersionState.PLANNED: "begun",
    VersionState.MADE: "begun",
    VersionState.PROVEN: "prepared",
    VersionState.PRIMARY: "primary",
    VersionState.FORMER: "decrypts",
    VersionState.DISABLED: "disabled",
    VersionState.FULL: "full",
    VersionState.ABANDONED: "abandoned",
}


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version. Times are UTC, ISO 8601."""

    version: int
    label: str
    role: str
    on_token: bool
    encryptions: int
    maximum_encryptions: int
    last_encrypted: str | None
    last_decrypted: str | None
    extractable: bool
    """Whether a key of the version can leave the token, as while it is copied to other HSMs."""

    def cells(self) -> tuple[str, ...]:
        """Return the values as text, in the order of the columns."""
        return (
            str(self.version),
            self.label,
            f"{self.role}, extractable" if self.extractable else self.role,
            "yes" if self.on_token else "no",
            f"{self.encryptions:,}",
            f"{self.maximum_encryptions:,}",
            self.last_encrypted or "never",
            self.last_decrypted or "never",
        )


def version_rows(
    key: ExternalKey, on_token: Iterable[KeyDescription], versions: SharedTable[VersionRecord], usage: UsageBook
) -> list[VersionRow]:
    """Return the versions that are on the token, recorded or configured, in the order of their numbers.

    Raises:
        StateUnusable: the state directory cannot be read.
    """
    versions.refresh()
    record = versions.get(key.id) or VersionRecord(key.first_version)
    labels = {name: description.extractable for description in on_token for name in description.names}
    present = {number for label in labels if (number := key.version_of(label)) is not None}
    numbers = {record.primary, *record.proven, *record.disabled, *key.listed_versions, *present}
    if record.pending is not None:
        numbers.add(record.pending)
    return [_row(key, number, record, labels, usage) for number in sorted(numbers)]


def _row(
    key: ExternalKey, number: int, record: VersionRecord, labels: Mapping[str, bool], usage: UsageBook
) -> VersionRow:
    label = key.label_of(number) or "(not configured)"
    used = usage.read(label)
    return VersionRow(
        number,
        label,
        _ROLES[state_of(number, record, exists=label in labels, full=used.encryptions >= key.maximum_encryptions)],
        label in labels,
        used.encryptions,
        key.maximum_encryptions,
        _time(used.last_encrypted),
        _time(used.last_decrypted),
        labels.get(label, False),
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

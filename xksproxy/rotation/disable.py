"""Taking a key version out of use, and back."""

import time
from typing import Final

from msgspec.structs import replace

from xksproxy.keystore.keymap import ExternalKey
from xksproxy.rotation.errors import RotationRefused
from xksproxy.state.state_file import SharedTable
from xksproxy.state.usage import KeyUsage, UsageBook
from xksproxy.state.versions import VersionRecord

_DAY_SECONDS: Final = 86_400.0


def disable_version(
    key: ExternalKey,
    number: int,
    versions: SharedTable[VersionRecord],
    usage: UsageBook,
    *,
    recent_days: float,
    force: bool,
) -> None:
    """Let a version decrypt no more, in every worker within a second.

    Raises:
        RotationRefused: it is primary or unknown, or it decrypted within ``recent_days`` and there is no ``force``.
        StateUnusable: the state directory cannot be used.
    """
    versions.refresh()
    record = versions.get(key.id) or VersionRecord(key.first_version)
    label = key.label_of(number)
    if label is None:
        raise RotationRefused(f"the configuration lists no version {number} of {key.id}")
    _require_not_primary(key, number, record)
    seen = usage.read(label)
    if number not in (key.first_version, *key.explicit, *record.proven) and seen == KeyUsage(label):
        raise RotationRefused(f"no version {number} of {key.id} was ever used or prepared on this machine")
    used = seen.last_decrypted
    days = None if used is None else (time.time() - used) / _DAY_SECONDS
    if days is not None and days < recent_days and not force:
        raise RotationRefused(
            f"version {number} of {key.id} last decrypted {days:.1f} days ago on this machine;"
            " data is still encrypted under it",
            f"without it, that data cannot be read; if you mean it, add --force (recent is {recent_days:g} days)",
        )

    def change(known: VersionRecord | None) -> VersionRecord:
        current = known or record
        _require_not_primary(key, number, current)
        return replace(current, disabled=tuple(sorted({*current.disabled, number})))

    versions.update(key.id, change)


def enable_version(key: ExternalKey, number: int, versions: SharedTable[VersionRecord]) -> bool:
    """Let a version decrypt again; whether it was disabled.

    Raises:
        StateUnusable: the state directory cannot be used.
    """
    was_disabled = False

    def change(known: VersionRecord | None) -> VersionRecord | None:
        nonlocal was_disabled
        was_disabled = known is not None and number in known.disabled
        if known is None or not was_disabled:
            return known
        return replace(known, disabled=tuple(other for other in known.disabled if other != number))

    versions.update(key.id, change)
    return was_disabled


def _require_not_primary(key: ExternalKey, number: int, record: VersionRecord) -> None:
    if number == record.primary:
        raise RotationRefused(
            f"version {number} of {key.id} is the one that encrypts",
            "make another one primary first: xksproxy keys rotate",
        )

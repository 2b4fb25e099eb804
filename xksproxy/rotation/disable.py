"""Disabling and enabling a key version."""

import math
import time
from typing import Final

from msgspec.structs import replace

from xksproxy.keystore.key_map import ExternalKey
from xksproxy.rotation.errors import RotationRefused
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_records import KeyUsage
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
    """Disable a version for Decrypt, in every worker within a second.

    Raises:
        RotationRefused: the version is primary or unknown, or, without ``force``, it decrypted or
            encrypted within ``recent_days``.
        StateUnusable: the state directory cannot be used.
    """
    label = key.label_of(number)
    if label is None:
        raise RotationRefused(f"the configuration lists no version {number} of {key.id}")

    def change(stored: VersionRecord | None) -> VersionRecord:
        record = stored or VersionRecord(key.first_version)
        _require_not_primary(key, number, record)
        if number not in (key.first_version, *key.listed_versions, *record.proven) and not usage.has_record(label):
            raise RotationRefused(f"version {number} of {key.id} was never used or prepared on this machine")
        if not force:
            _require_not_recent(key, number, usage.read(label), recent_days)
        return replace(record, disabled=tuple(sorted({*record.disabled, number})))

    versions.update(key.id, change)


def enable_version(key: ExternalKey, number: int, versions: SharedTable[VersionRecord]) -> bool:
    """Enable a version for Decrypt again, and return whether it was disabled.

    Raises:
        StateUnusable: the state directory cannot be used.
    """
    was_disabled = False

    def change(stored: VersionRecord | None) -> VersionRecord | None:
        nonlocal was_disabled
        was_disabled = stored is not None and number in stored.disabled
        if stored is None or not was_disabled:
            return stored
        return replace(stored, disabled=tuple(other for other in stored.disabled if other != number))

    versions.update(key.id, change)
    return was_disabled


def _require_not_primary(key: ExternalKey, number: int, record: VersionRecord) -> None:
    if number == record.primary:
        raise RotationRefused(
            f"version {number} of {key.id} is the primary version",
            "make another version primary first: xksproxy keys rotate",
        )


def _require_not_recent(key: ExternalKey, number: int, used: KeyUsage, recent_days: float) -> None:
    # One encryption is that of the canary of its fingerprint.
    last_encrypted = used.last_encrypted if used.encryptions > 1 else None
    for what, at in (("decrypted", used.last_decrypted), ("encrypted", last_encrypted)):
        days = math.inf if at is None else (time.time() - at) / _DAY_SECONDS
        if days >= recent_days:
            continue
        raise RotationRefused(
            f"version {number} of {key.id} last {what} {days:.1f} days ago on this machine;"
            " data is still encrypted under it",
            "if the version is disabled, this data cannot be decrypted",
            f"to disable it anyway, add --force (--recent is {recent_days:g} days)",
        )

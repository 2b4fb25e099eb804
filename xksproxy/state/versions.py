"""Which version of each external key encrypts, and how far a rotation has come."""

from pathlib import Path

import msgspec

from xksproxy.state.statefile import SharedTable


class VersionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is on record for one external key."""

    primary: int
    """The version that Encrypt uses."""

    pending: int | None = None
    """The version that a rotation has begun to make or to prove."""

    proven: tuple[int, ...] = ()
    """Versions that every HSM of this machine was seen to hold and to decrypt with."""

    disabled: tuple[int, ...] = ()
    """Versions that decrypt no more."""


def version_table(state_directory: Path, keystore: str) -> SharedTable[VersionRecord]:
    """The records of a key store, by external key id."""
    return SharedTable(state_directory / f"versions-{keystore}.json", VersionRecord)

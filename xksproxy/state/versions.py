"""Which version of each external key encrypts, and how far a rotation has come."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.state.statefile import SharedTable


class VersionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is on record for one external key."""

    primary: Annotated[int, Meta(ge=1, le=MAXIMUM_VERSION)]
    """The version that Encrypt uses."""

    pending: int | None = None
    """The version that a rotation has begun to make or to prove."""

    proven: tuple[int, ...] = ()
    """Versions that every HSM of this machine was seen to hold and to decrypt with."""

    extractable: tuple[int, ...] = ()
    """Versions that were made so that they can be copied, and are not yet shut in."""

    disabled: tuple[int, ...] = ()
    """Versions that decrypt no more."""


def version_table(state_directory: Path, keystore: str) -> SharedTable[VersionRecord]:
    """The records of a key store, by external key id."""
    return SharedTable(state_directory / f"versions-{keystore}.json", VersionRecord)

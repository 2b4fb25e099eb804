"""Which version of each external key encrypts, and the progress of a rotation."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.state.shared_table import SharedTable


class VersionRecord(msgspec.Struct, frozen=True):
    """The record of one external key."""

    primary: Annotated[int, Meta(ge=1, le=MAXIMUM_VERSION)]
    """The version that Encrypt uses."""

    pending: int | None = None
    """The version that a rotation is making or verifying."""

    proven: tuple[int, ...] = ()
    """Versions that were verified on every HSM of this machine: each HSM holds the key and decrypts with it."""

    extractable: tuple[int, ...] = ()
    """Versions that were made extractable so that they can be copied, and are still extractable."""

    disabled: tuple[int, ...] = ()
    """Versions that no longer decrypt."""

    highest: int = 0
    """No key is made for a version up to this number: it may have had another key."""

    abandoned: tuple[int, ...] = ()
    """Versions that were begun or prepared, and then given up before they were ever primary."""


OF_ALL_KEYS = ""
"""The entry whose ``highest`` is that of every key of the key store. No external key has this id."""

KEY_MAKING = "rotate.json"
"""The name of the lock of all that makes keys: otherwise two commands at once find no key, and make two.

It is one for all key stores, because two of them may have keys of one label on one token.
"""


def version_table(state_directory: Path, keystore: str) -> SharedTable[VersionRecord]:
    """The records of a key store, by external key id."""
    return SharedTable(state_directory, f"versions-{keystore}.json", VersionRecord)

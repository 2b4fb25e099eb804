"""The key stores and external keys that an operator has blocked."""

from pathlib import Path

import msgspec

from xksproxy.state.state_file import SharedTable


class Block(msgspec.Struct, frozen=True):
    """One block: since when, and the reason."""

    since: float
    """Unix time in seconds."""

    reason: str = ""


WHOLE_STORE = ""
"""The entry that blocks the whole key store. No external key has this id."""


def block_table(state_directory: Path, keystore: str) -> SharedTable[Block]:
    """The blocks of a key store, by external key id."""
    return SharedTable(state_directory / f"blocks-{keystore}.json", Block)

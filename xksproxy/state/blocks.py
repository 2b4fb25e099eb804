"""The key stores and external keys that an operator has blocked."""

from pathlib import Path

import msgspec

from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import UnixTime


class Block(msgspec.Struct, frozen=True):
    """One block: since when, and the reason."""

    since: UnixTime
    """Unix time in seconds."""

    reason: str = ""


WHOLE_STORE = ""
"""The entry that blocks the whole key store, or all of them. No external key has this id."""


def block_table(state_directory: Path, keystore: str | None) -> SharedTable[Block]:
    """The blocks of a key store, by external key id. None stands for all key stores, whatever their names."""
    return SharedTable(state_directory, "blocks.json" if keystore is None else f"blocks-{keystore}.json", Block)

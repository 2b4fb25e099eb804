"""Which key stores and external keys are blocked by hand."""

from pathlib import Path

import msgspec

from xksproxy.state.statefile import SharedTable


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why and since when something is blocked."""

    since: float
    """Seconds since 1970."""

    reason: str = ""


WHOLE_STORE = ""
"""The name under which a whole key store is blocked; no external key has it."""


def block_table(state_directory: Path, keystore: str) -> SharedTable[Block]:
    """The blocks of a key store, by external key id."""
    return SharedTable(state_directory / f"blocks-{keystore}.json", Block)

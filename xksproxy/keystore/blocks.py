"""The customer's kill switch as the workers follow it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xksproxy.spec.errors import InternalException
from xksproxy.state.blocks import WHOLE_STORE, Block
from xksproxy.state.state_file import SharedTable, StateUnusable

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlockChange:
    """A block that came or went."""

    key_id: str
    """Empty for the whole key store."""

    block: Block | None
    """None: it went."""


class Blocks:
    """The blocks of one key store. What cannot be read when a worker starts counts as blocked (fail closed)."""

    def __init__(self, table: SharedTable[Block]) -> None:
        self._table = table
        self._problem = ""
        self._ever_read = False
        self._seen: Mapping[str, Block] = {}
        self.refresh()

    def refresh(self) -> list[BlockChange]:
        """Take over what has changed on disk, and tell it; what cannot be read changes nothing, and is said once."""
        try:
            self._table.refresh()
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("blocks cannot be read", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
        else:
            self._problem, self._ever_read = "", True
        before, self._seen = self._seen, self._table.entries()
        names = {*before, *self._seen}
        return [BlockChange(name, self._seen.get(name)) for name in names if before.get(name) != self._seen.get(name)]

    def find(self, key_id: str) -> Block | None:
        """The block that holds for a key: its own, or that of the whole key store.

        Raises:
            InternalException: it cannot be told.
        """
        if not self._ever_read:
            raise InternalException("The proxy cannot read whether the key is blocked", detail=self._problem)
        blocks = self._table.entries()
        return blocks.get(WHOLE_STORE) or blocks.get(key_id)

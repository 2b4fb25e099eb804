"""The blocks that an operator sets with ``xksproxy block``, as a worker reads them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xksproxy.spec.errors import InternalException
from xksproxy.state.blocks import WHOLE_STORE, Block
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlockChange:
    """A block that was set or removed."""

    key_id: str
    """Empty for the whole key store."""

    block: Block | None
    """None if the block was removed."""


class Blocks:
    """The blocks of one key store. Until a worker has read them, all requests for keys fail (fail closed)."""

    def __init__(self, table: SharedTable[Block], of_all: "Blocks | None" = None, *, unread: str = "") -> None:
        """Read them, unless ``unread`` is the reason why they must not be read now.

        ``of_all`` has the block of all key stores.
        """
        self._table = table
        self._of_all = of_all
        self._problem = unread
        self._was_read = False
        self._entries: Mapping[str, Block] = {}
        if not unread:
            self.refresh()

    def refresh(self) -> list[BlockChange]:
        """Read the file again and return the changes.

        If the file cannot be read, the blocks stay as they were. Each reason is logged once.
        """
        try:
            self._table.refresh()
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("blocks cannot be read", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
        else:
            self._problem, self._was_read = "", True
        before, after = self._entries, self._table.entries()
        self._entries = after
        if after is before:
            return []
        return [BlockChange(name, after.get(name)) for name in {*before, *after} if before.get(name) != after.get(name)]

    @property
    def problem(self) -> str:
        """Why the blocks cannot be read. Empty if they can be read."""
        return self._problem or ("" if self._of_all is None else self._of_all.problem)

    @property
    def revision(self) -> int:
        """The revision of the file that is in force."""
        return self._table.revision

    @property
    def in_force(self) -> Mapping[str, Block]:
        """The blocks by key id; that of the whole key store is under ``WHOLE_STORE``."""
        of_all = {} if self._of_all is None else self._of_all.in_force
        return {**self._entries, **of_all} if of_all else self._entries  # a copy of many blocks takes milliseconds

    def find(self, key_id: str) -> Block | None:
        """Return the block of all key stores, or of this whole key store, or else the block of the key, or None.

        Raises:
            InternalException: the blocks were never readable.
        """
        if not self._was_read:
            raise InternalException("The proxy cannot read whether the key is blocked", detail=self.problem)
        if self._of_all is not None and (block := self._of_all.find(key_id)) is not None:
            return block
        blocks = self._table.entries()
        return blocks.get(WHOLE_STORE) or blocks.get(key_id)

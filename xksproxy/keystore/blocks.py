"""The customer's kill switch as the workers follow it."""

import logging
from typing import Final

from xksproxy.spec.errors import InternalException
from xksproxy.state.blocks import WHOLE_STORE, Block
from xksproxy.state.statefile import SharedTable, StateUnusable

_log: Final = logging.getLogger(__name__)


class Blocks:
    """The blocks of one key store. What cannot be read when a worker starts counts as blocked (fail closed)."""

    def __init__(self, table: SharedTable[Block]) -> None:
        self._table = table
        self._problem = ""
        self._ever_read = False
        self.refresh()

    def refresh(self) -> None:
        """Take over what has changed on disk; what cannot be read changes nothing, and is said once."""
        try:
            self._table.refresh()
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("blocks cannot be read", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
        else:
            self._problem, self._ever_read = "", True

    def find(self, key_id: str) -> Block | None:
        """The block that holds for a key: its own, or that of the whole key store.

        Raises:
            InternalException: it cannot be told.
        """
        if not self._ever_read:
            raise InternalException("The proxy cannot read whether the key is blocked", detail=self._problem)
        return self._table.get(WHOLE_STORE) or self._table.get(key_id)

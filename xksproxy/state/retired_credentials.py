"""Which credentials were retired, so that a file that comes back, as from a backup, is not accepted again."""

import logging
import time
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable, UnixTime

_log: Final = logging.getLogger(__name__)

FILE_NAME: Final = "retired-credentials.json"


class RetiredCredential(msgspec.Struct, frozen=True):
    """The record of one credential."""

    since: UnixTime
    """Unix time in seconds."""


class RetiredCredentials:
    """The retired credentials of all key stores, in one file that the processes of a machine share.

    Until a process has read the file, it accepts no credential (fail closed).
    """

    def __init__(self, state_directory: Path, least: int = 0, *, unread: str = "") -> None:
        """Read the file, unless ``unread`` is the reason why it must not be read now.

        ``least`` is a revision that it is known to have had.
        """
        self._table = _table(state_directory, least)
        self.problem = unread
        """Why the file cannot be read. Empty if it can be read."""
        self._was_read = False
        if not unread:
            self.refresh()

    @property
    def revision(self) -> int:
        """Changes with the answers of :meth:`accepts`. -1 until the file was read."""
        return self._table.revision if self._was_read else -1

    @property
    def known_revision(self) -> int:
        """The highest revision that the file is known to have had; 0 if none is known."""
        return self._table.known_revision

    def refresh(self) -> None:
        """Read the file again. If it cannot be read, what is known stays; each reason is logged once."""
        try:
            self._table.refresh()
        except StateUnusable as error:
            if str(error) != self.problem:
                _log.error("retired credentials cannot be read", extra={"fields": {"reason": str(error)}})
            self.problem = str(error)
        else:
            self.problem, self._was_read = "", True

    def has(self, keystore: str, access_key_id: str) -> bool:
        """Whether a credential of a key store is known as retired."""
        return self._table.get(_name(keystore, access_key_id)) is not None

    def accepts(self, keystore: str, access_key_id: str) -> bool:
        """Whether a credential of a key store was not retired."""
        return self._was_read and not self.has(keystore, access_key_id)


def mark_retired(
    state_directory: Path, keystore: str, access_key_id: str, least: int = 0
) -> SharedTable[RetiredCredential]:
    """Record a retired credential, and return the table with it. ``least`` is a revision that the file has had.

    Raises:
        StateUnusable: it cannot be recorded.
    """
    table = _table(state_directory, least)
    table.update(_name(keystore, access_key_id), lambda known: known or RetiredCredential(time.time()))
    return table


def unmark_retired(state_directory: Path, keystore: str, access_key_id: str, least: int = 0) -> None:
    """Remove the record of a retired credential; see :func:`mark_retired`."""
    _table(state_directory, least).update(_name(keystore, access_key_id), lambda _: None)


def _table(state_directory: Path, least: int) -> SharedTable[RetiredCredential]:
    table = SharedTable(state_directory, FILE_NAME, RetiredCredential)
    table.expect_revision(least)
    return table


def _name(keystore: str, access_key_id: str) -> str:
    return f"{keystore}/{access_key_id}"

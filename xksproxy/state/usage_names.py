"""The name under which the encryptions of a key are counted, if the key has several names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from xksproxy.state.shared_table import SharedTable

_FILE_NAME: Final = "usage-names.json"


class UsageName(msgspec.Struct, frozen=True):
    """The record of a name: another name of the same key, under which the key is counted."""

    counted_as: str


class UsageNames:
    """Names of keys and the names under which they are counted, in one file of the state directory.

    A name that is not in the file is counted under itself. The record of a name never changes. It must be made before
    the key is first used under that name.
    """

    def __init__(self, state_directory: Path, known: Mapping[str, int] = MappingProxyType({})) -> None:
        """``known`` has a revision that the file is known to have had, by its name."""
        self._table = SharedTable(state_directory, _FILE_NAME, UsageName)
        self._table.expect_revision(known.get(_FILE_NAME, 0))
        self._known: dict[str, str] = {}
        self._others_of: tuple[Mapping[str, UsageName], Mapping[str, Sequence[str]]] = {}, {}
        """Entries of the file, and by the names under which they are counted."""

    @property
    def revisions(self) -> dict[str, int]:
        """The highest revision that the file is known to have had, by its name; empty if it has never existed."""
        revision = self._table.known_revision
        return {_FILE_NAME: revision} if revision else {}

    def of(self, name: str) -> str:
        """The name under which encryptions are counted. The first use of a name reads the file.

        Raises:
            StateUnusable: the file cannot be read.
        """
        known = self._known.get(name)
        return known or self._known.setdefault(name, self.read(name))

    def known(self, name: str) -> str | None:
        """The same, if it was asked for before, without waiting for the disk."""
        return self._known.get(name)

    def read(self, name: str) -> str:
        """The same, read from the file. The result is not remembered.

        Raises:
            StateUnusable: the file cannot be read.
        """
        self._table.refresh()
        entry = self._table.get(name)
        return name if entry is None else entry.counted_as

    def others(self, counted_as: str) -> Sequence[str]:
        """The other names of what is counted under a name.

        Raises:
            StateUnusable: the file cannot be read.
        """
        self._table.refresh()
        entries = self._table.entries()
        if self._others_of[0] is not entries:
            names: dict[str, list[str]] = {}
            for name, entry in entries.items():
                names.setdefault(entry.counted_as, []).append(name)
            self._others_of = entries, names
        return self._others_of[1].get(counted_as, ())

    def join(self, name: str, other: str) -> None:
        """Count a name under ``other`` from now on, unless it has a record. Waits for the disk.

        Raises:
            StateUnusable: the file cannot be read or written.
        """
        target = self.read(other)
        if target != name:
            self._table.update(name, lambda known: known or UsageName(target))
            self._known.pop(name, None)

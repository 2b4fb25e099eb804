"""Tables of entries in the state directory that several processes read and change."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec

from xksproxy.decoding import convert
from xksproxy.state.state_file import Document, StateFile, StateUnusable, StateWentBack

_LOCK_SECONDS: Final = 1.0

_NO_ENTRIES: Final[Mapping[str, Any]] = MappingProxyType({})
_NOT_READ: Final[tuple[Mapping[str, Any], int, None]] = _NO_ENTRIES, 0, None
_MISSING: Final[tuple[Mapping[str, Any], int, None]] = _NO_ENTRIES, 0, None
"""The file has never existed."""

Entry = TypeVar("Entry")


class SharedTable(Generic[Entry]):
    """Entries by name in one JSON file that several processes read and change. Unknown fields of entries are kept.

    Methods that read or write the file wait for the disk, and writers wait for a lock. Call them on a thread.
    """

    __slots__ = ("_file", "_lock_seconds", "_seen", "_type")

    def __init__(
        self, directory: Path, name: str, entry_type: type[Entry], *, lock_seconds: float = _LOCK_SECONDS
    ) -> None:
        """Writers wait at most ``lock_seconds`` for the lock."""
        self._lock_seconds = lock_seconds
        self._file = StateFile(directory, name)
        self._type = entry_type
        self._seen: tuple[Mapping[str, Entry], int, tuple[int, ...] | None] = _NOT_READ
        """Entries, their revision and the signature of the file, replaced together: several threads read and write."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._file.path

    @property
    def revision(self) -> int:
        """The revision of the entries that this process last read."""
        return self._seen[1]

    @property
    def known_revision(self) -> int:
        """The highest revision that the file is known to have had, also if it is refused now; 0 if none is known."""
        return max(self._file.revision, 0)

    def get(self, name: str) -> Entry | None:
        """The entry as this process last read it."""
        return self.entries().get(name)

    def entries(self) -> Mapping[str, Entry]:
        """All entries as this process last read them."""
        return self._seen[0]

    def expect_missing(self) -> None:
        """Let :meth:`refresh` open nothing while there is no file and no record of one.

        It does not check the directory then. Something else must.
        """
        if self._seen is _NOT_READ and self._file.revision < 0:
            self._seen = _MISSING

    def expect_revision(self, revision: int) -> None:
        """Refuse a file with an older revision, or no file if this one is above 0. Call it before the first read."""
        if revision > 0:
            self._file.note_written(revision)

    def refresh(self) -> None:
        """Read the file if it was replaced since the last read. A file that never existed counts as empty.

        Raises:
            StateUnusable: the file cannot be read, was deleted, or is an older copy. The entries do not change.
        """
        signature = self._file.signature()
        if signature is None and self._seen is _MISSING and not self._file.is_recorded:
            return
        if signature is None or signature != self._seen[2]:
            entries, _ = self._read()
            before, revision, _ = self._seen
            if 0 < self._file.revision == revision and entries != before:
                raise StateWentBack(
                    f"{self.path}: its revision is still {revision}, and its entries are others; restore the newest"
                )
            if signature is not None and self._file.recorded() is None:
                self._record()
            self._take(entries, signature)

    def update(self, name: str, change: Callable[[Entry | None], Entry | None]) -> Entry | None:
        """Replace an entry by ``change(entry)`` and return it. None stands for no entry.

        An entry that changes becomes the last one.

        Raises:
            StateUnusable: the file cannot be read or written. Nothing changes.
        """
        with self._file.locked(self._lock_seconds):
            entries, document = self._read()
            before = entries.get(name)
            after = change(before)
            if after == before:
                self._record_if_older()
            else:
                raw = document["entries"]
                others = {other: value for other, value in raw.items() if other != name}
                if after is not None:
                    others[name] = {**raw.get(name, {}), **msgspec.to_builtins(after)}
                self._file.write({**document, "entries": others})
                entries = {other: entry for other, entry in entries.items() if other != name}
                if after is not None:
                    entries[name] = after
            self._take(entries, self._file.signature())
        return after

    def add(self, additions: Mapping[str, Entry]) -> Mapping[str, Entry]:
        """Add entries whose names have none yet, with one write, and return all entries.

        Raises:
            StateUnusable: the file cannot be read or written. Nothing changes.
        """
        self.merge(additions, lambda known, entry: entry if known is None else known)
        return self.entries()

    def merge(
        self, additions: Mapping[str, Entry], choose: Callable[[Entry | None, Entry], Entry]
    ) -> Mapping[str, Entry]:
        """Replace each entry by ``choose(entry, addition)``, with one write, and return those that are new.

        Raises:
            StateUnusable: the file cannot be read or written. Nothing changes.
        """
        with self._file.locked(self._lock_seconds):
            known, document = self._read()
            chosen = {name: choose(known.get(name), addition) for name, addition in additions.items()}
            changed = {name: entry for name, entry in chosen.items() if entry != known.get(name)}
            if changed:
                before = document["entries"]
                raw = {name: {**before.get(name, {}), **msgspec.to_builtins(entry)} for name, entry in changed.items()}
                self._file.write({**document, "entries": {**before, **raw}})
            self._take({**known, **changed}, self._file.signature())
        return {name: entry for name, entry in changed.items() if name not in known}

    def _take(self, entries: Mapping[str, Entry], signature: tuple[int, ...] | None) -> None:
        is_missing = signature is None and self._file.revision < 0
        self._seen = _MISSING if is_missing else (entries, max(self._file.revision, 0), signature)

    def _read(self) -> tuple[dict[str, Entry], Document]:
        found = self._file.read_as(self._entries_of)
        if found is None:
            return {}, {"entries": {}}
        entries, document = found
        return entries, _with_entries(document)

    def _entries_of(self, document: Document) -> dict[str, Entry]:
        return convert(_with_entries(document).get("entries"), dict[str, self._type])  # type: ignore[name-defined]

    def _record_if_older(self) -> None:
        """Record a change that a writer without room could not record. The caller holds the lock."""
        recorded = self._file.recorded()
        if self._file.revision > (-1 if recorded is None else recorded):
            self._file.record()

    def _record(self) -> None:
        """Record a file that an older release, or a killed process, has left without a record."""
        with suppress(StateUnusable), self._file.locked(self._lock_seconds):
            self._file.record()


def _with_entries(document: Document) -> Document:
    """A document with its entries under ``entries``. A release without a format number wrote nothing else."""
    return document if isinstance(document.get("format"), int) else {"entries": document}

"""The fingerprints of all keys of a machine, over all key stores, in the order in which they were recorded."""

import threading
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.shared_table import SharedTable

_LOCK_SECONDS: Final = 5.0
"""The first uses of all keys on this machine wait for one lock. There are many when a new machine starts."""

Fingerprints = tuple[KeyFingerprint, ...]


class RecordedKey(msgspec.Struct, frozen=True):
    """The record of one name."""

    fingerprints: Fingerprints
    """One for each key that has had the name. On several tokens, different keys may have one name."""


class FingerprintIndex:
    """Fingerprints by name, in one file of the state directory, so that the first use of a key reads one file.

    If the file does not exist, it is filled from the records of the key stores, which an older release may have left.
    Safe to use from any thread. All methods read the file, and may wait for the disk and for its lock. They raise
    StateUnusable if the file cannot be used.
    """

    def __init__(self, state_directory: Path) -> None:
        self._directory = state_directory
        self._table = SharedTable(state_directory, "fingerprints.json", RecordedKey, lock_seconds=_LOCK_SECONDS)
        self._lock = threading.Lock()
        """Held while the file is read or written, so that threads do not all read the same change of it."""

    def of(self, name: str) -> Fingerprints:
        """The fingerprints on record for a name."""
        entry = self._entries().get(name)
        return () if entry is None else entry.fingerprints

    def earlier(self, name: str) -> Mapping[str, Fingerprints]:
        """The entries before that of a name, in the order of the record; all entries if the name has none."""
        entries = self._entries()
        names = takewhile(lambda other: other != name, entries)
        return {other: entries[other].fingerprints for other in names}

    def add(self, name: str, fingerprint: KeyFingerprint) -> None:
        """Add a fingerprint to the record of a name, which becomes the last one. Nothing changes if it is on record."""

        def extended(known: RecordedKey | None) -> RecordedKey:
            fingerprints = () if known is None else known.fingerprints
            check_values = {other.check_value for other in fingerprints} - {None}
            is_known = fingerprint in fingerprints or fingerprint.check_value in check_values
            return RecordedKey(fingerprints if is_known else (*fingerprints, fingerprint))

        self._entries()
        with self._lock:
            self._table.update(name, extended)

    def _entries(self) -> Mapping[str, RecordedKey]:
        with self._lock:
            self._table.refresh()
            if not self._table.entries():
                self._copy_store_records()
            return self._table.entries()

    def _copy_store_records(self) -> None:
        """Fill the empty index from the records of the key stores."""
        found: dict[str, Fingerprints] = {}
        for path in sorted(self._directory.glob("keys-*.json")):
            table = SharedTable(path.parent, path.name, KeyFingerprint)
            table.refresh()
            for name, fingerprint in table.entries().items():
                found[name] = (*found.get(name, ()), fingerprint)
        if found:
            self._table.add({name: RecordedKey(fingerprints) for name, fingerprints in found.items()})

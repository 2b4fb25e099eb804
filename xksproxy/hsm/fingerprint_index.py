"""The fingerprints of all keys of a machine, in the order in which they were recorded, whatever key store uses them."""

import threading
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.state_file import SharedTable

_LOCK_SECONDS: Final = 5.0
"""All first uses of keys on this machine take turns, and many come at once when a new machine starts."""

Fingerprints = tuple[KeyFingerprint, ...]


class RecordedKey(msgspec.Struct, frozen=True):
    """What is on record for a name."""

    fingerprints: Fingerprints
    """Of the keys that had the name, one after another. On several tokens, a name may also be that of several keys."""


class FingerprintIndex:
    """Fingerprints by name, in one file of the state directory, so that a first use of a key reads one file.

    On a machine where a release without this file has run, it begins with the records of the key stores. Safe to use
    from any thread. All methods read the file, and may wait for the disk and for its lock. They raise StateUnusable if
    it cannot be used.
    """

    def __init__(self, state_directory: Path) -> None:
        self._directory = state_directory
        self._table = SharedTable(state_directory / "fingerprints.json", RecordedKey, lock_seconds=_LOCK_SECONDS)
        self._lock = threading.Lock()
        """Held while the file is read or written, so that threads do not all read the same change of it."""

    def of(self, name: str) -> Fingerprints:
        """The fingerprints on record for a name."""
        entry = self._entries().get(name)
        return () if entry is None else entry.fingerprints

    def earlier(self, name: str) -> Mapping[str, Fingerprints]:
        """What was recorded before the last fingerprint of a name, in that order; everything if the name has none."""
        entries = self._entries()
        names = takewhile(lambda other: other != name, entries)
        return {other: entries[other].fingerprints for other in names}

    def add(self, name: str, fingerprint: KeyFingerprint) -> None:
        """Record that a name is that of a key, after all others. One with its check value may be on record already."""

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
                self._take_over()
            return self._table.entries()

    def _take_over(self) -> None:
        """Begin with the records of the key stores."""
        found: dict[str, Fingerprints] = {}
        for path in sorted(self._directory.glob("keys-*.json")):
            table = SharedTable(path, KeyFingerprint)
            table.refresh()
            for name, fingerprint in table.entries().items():
                found[name] = (*found.get(name, ()), fingerprint)
        if found:
            self._table.add({name: RecordedKey(fingerprints) for name, fingerprints in found.items()})

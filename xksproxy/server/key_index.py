"""From names of keys on tokens to the external keys of all key stores."""

from collections.abc import Iterator, Sequence
from typing import Final

from xksproxy.config.key_names import split_version_label
from xksproxy.keystore.key_map import ExternalKey
from xksproxy.keystore.store import KeyStore
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_records import KeyUsage
from xksproxy.telemetry.collectors import KeyCount

_MOST_COMPARISONS: Final = 200_000
"""So many names are compared with the patterns of key stores at most. Each takes about 2 µs."""


class KeyIndex:
    """Which key stores may have a name on tokens, so that not every one is asked for each name."""

    def __init__(self, stores: Sequence[KeyStore]) -> None:
        self._by_name: dict[str, list[KeyStore]] = {}
        self._with_patterns: list[KeyStore] = []
        for store in stores:
            if (names := store.keys.names) is None:
                self._with_patterns.append(store)
            for name in names or ():
                self._by_name.setdefault(name, []).append(store)
        self.most_names = _MOST_COMPARISONS // max(1, len(self._with_patterns))
        """So many names can be asked for in reasonable time."""

    def find(self, name: str) -> Iterator[tuple[KeyStore, ExternalKey, int]]:
        """The external keys that have a version with this name, and the number of the version."""
        split = split_version_label(name)
        stem = self._by_name.get(split[0], []) if split else []
        asked = (*self._by_name.get(name, ()), *stem, *self._with_patterns)
        for store in {id(store): store for store in asked}.values():
            key = store.keys.key_of_label(name)
            version = None if key is None else key.version_of(name)
            if key is not None and version is not None:
                yield store, key, version


def key_counts(usage: KeyUsage, book: UsageBook, index: KeyIndex) -> Iterator[KeyCount]:
    """The external keys that are counted by a record."""
    for name in (usage.label, *book.names.others(usage.label)):
        for store, key, version in index.find(name):
            primary = store.versions.is_primary(key, name)
            yield KeyCount(store.name, key.id, version, usage.encryptions, key.maximum_encryptions, primary)

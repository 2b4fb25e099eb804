"""The state of this machine for the metrics: encryptions of keys, and credentials."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from xksproxy.config.key_names import split_version_label
from xksproxy.keystore.key_map import ExternalKey
from xksproxy.keystore.store import KeyStore
from xksproxy.server.services import Services
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_records import KeyUsage
from xksproxy.telemetry.collectors import CredentialInfo, KeyCount, MachineInfo

_MOST_COMPARISONS: Final = 200_000
"""So many names are compared with the patterns of key stores at most. Each takes about 2 µs."""


def machine_info(services: Services) -> MachineInfo:
    """The state of this machine. It reads files: call it on a thread."""
    snapshot = services.snapshot
    stores = [service.store for service in snapshot.services.values()]
    usages = _usages(services.usage)
    index = _KeyIndex(stores)
    examined = usages[: index.most_names]
    return MachineInfo(
        keys=[count for usage in examined for count in _counts(usage, services.usage, index)],
        credentials=tuple(_credentials(stores)),
        certificate_name=snapshot.certificate.name,
        certificate_expiry=snapshot.certificate.expires,
        keys_left_out=len(usages) - len(examined),
    )


def _usages(usage: UsageBook) -> list[KeyUsage]:
    """All records, the busiest first; none if they cannot be read."""
    try:
        return sorted(usage.records.read_all(), key=lambda record: -record.encryptions)
    except StateUnusable:
        return []


class _KeyIndex:
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


def _counts(usage: KeyUsage, book: UsageBook, index: _KeyIndex) -> Iterator[KeyCount]:
    """The external keys that are counted by a record."""
    for name in (usage.label, *book.names.others(usage.label)):
        for store, key, version in index.find(name):
            primary = store.versions.is_primary(key, name)
            yield KeyCount(store.name, key.id, version, usage.encryptions, key.maximum_encryptions, primary)


def _credentials(stores: Iterable[KeyStore]) -> Iterator[CredentialInfo]:
    for store in stores:
        used = store.credentials_used()
        for access_key_id, created in store.credentials_created.items():
            yield CredentialInfo(store.name, access_key_id, created, used.get(access_key_id))

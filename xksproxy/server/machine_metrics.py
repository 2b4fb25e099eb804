"""The state of this machine for the metrics: encryptions of keys, and credentials."""

from collections.abc import Iterable, Iterator

from xksproxy.keystore.store import KeyStore
from xksproxy.server.key_index import KeyIndex, key_counts
from xksproxy.server.services import Services
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_records import KeyUsage
from xksproxy.telemetry.collectors import CredentialInfo, KeyCount, MachineInfo


def machine_info(services: Services) -> MachineInfo:
    """The state of this machine. It reads files: call it on a thread."""
    snapshot = services.snapshot
    stores = [service.store for service in snapshot.services.values()]
    usages = _usages(services.state.usage)
    index = KeyIndex(stores)
    examined = usages[: index.most_names]
    return MachineInfo(
        keys=_counts(examined, services.state.usage, index),
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


def _counts(usages: Iterable[KeyUsage], book: UsageBook, index: KeyIndex) -> list[KeyCount]:
    """The versions that the records count; none if the other names of keys cannot be read."""
    try:
        return [count for usage in usages for count in key_counts(usage, book, index)]
    except StateUnusable:
        return []


def _credentials(stores: Iterable[KeyStore]) -> Iterator[CredentialInfo]:
    for store in stores:
        used = store.credentials_used()
        for access_key_id, created in store.credentials_created.items():
            yield CredentialInfo(store.name, access_key_id, created, used.get(access_key_id))

"""What can change in a running worker, built whole and then put in place by one assignment."""

import dataclasses
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from xksproxy.authorization.authorizer import Authorizer
from xksproxy.authorization.request import AuthorizationRequest
from xksproxy.config.model import Config, Tls
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance
from xksproxy.keystore.blocks import BlockChange
from xksproxy.keystore.store import KeyStore
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.authorization_check import AuthorizationCheck
from xksproxy.operations.versions import VersionSearch
from xksproxy.server.quota import Quota
from xksproxy.server.tls import CertificateInfo, build_context, certificate_info
from xksproxy.sigv4.verify import Identity
from xksproxy.spec.errors import XksError
from xksproxy.spec.messages import CryptoRequestMetadata, KeyRequestMetadata
from xksproxy.spec.uri import ApiPath
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class Service:
    """A key store and the way to its keys."""

    store: KeyStore
    access: KeyAccess
    records: FingerprintRecords
    ready: "Readiness"
    quota: Quota | None = None
    authorizer: Authorizer | None = None
    """Decides by the policies of the key store; None where it has none."""

    def access_for(
        self,
        path: ApiPath,
        identity: Identity,
        metadata: KeyRequestMetadata | CryptoRequestMetadata,
    ) -> KeyAccess:
        """The way to the keys for one request."""
        if self.authorizer is None:
            return self.access
        request = AuthorizationRequest.of(path.operation, path.key_id, identity, metadata)
        return self.access.authorized_by(AuthorizationCheck(self.authorizer, request))

    def refresh_state(self) -> list[BlockChange]:
        """Take over what others have changed on disk, and record there what is due; call it on a thread."""
        self.records.refresh()
        return self.store.refresh_state()


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the HSMs of a key store can serve its keys."""

    fleet: Fleet
    instances: tuple[Instance, ...]

    def __bool__(self) -> bool:
        return self.fleet.ready


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Key stores by path prefix, and TLS."""

    services: Mapping[str, Service]
    tls: Tls
    context: ssl.SSLContext
    certificate: CertificateInfo
    loaded_at: float
    """Seconds since 1970."""


def build_snapshot(config: Config, instances: Mapping[str, Instance], usage: UsageBook, runtime: Path) -> Snapshot:
    """Build it all, or nothing. It reads files; ``runtime`` is where the workers share quotas.

    Raises:
        ConfigError: credentials, policies or certificates cannot be used.
    """
    state = Path(config.state.directory)
    fleet_size = config.server.fleet_size
    services = {}
    for table in config.keystore:
        store = KeyStore.build(table, fleet_size, state)
        held_by = [instances[hsm_id] for hsm_id in table.hsms]
        services[table.uri_path_prefix] = dataclasses.replace(
            _service(store, held_by, state, usage),
            quota=Quota.of(table, runtime),
            authorizer=Authorizer.build(table),
        )
    tls = config.server.tls
    return Snapshot(services, tls, build_context(tls), certificate_info(tls), time.time())


def built_with(config: Config) -> tuple[object, ...]:
    """What a worker is built with, and so cannot change while it runs; all else is in the snapshot."""
    tls = replace(config.server.tls, certificate="-", private_key="-", client_ca=None, client_names=())
    return (
        replace(config.server, tls=tls),
        config.health,
        config.admin,
        config.audit,
        config.hsm,
        config.state,
        config.logging,
    )


def _service(store: KeyStore, instances: Sequence[Instance], state: Path, usage: UsageBook) -> Service:
    records = FingerprintRecords(state / f"keys-{store.name}.json")
    records.refresh()
    fleet = Fleet(instances, records, lambda label: store.keys.holder(label) is not None)
    access = KeyAccess(store.keys, store.versions, store.blocks, VersionSearch(fleet), fleet, usage)
    fleet.prove_first(_primary_labels(store))
    return Service(store, access, records, Readiness(fleet, tuple(instances)))


def _primary_labels(store: KeyStore) -> Iterator[str]:
    """The labels of the keys that the configuration names; a key whose primary version is unknown is left out."""
    for key in store.keys.named_keys():
        with suppress(XksError):
            yield store.versions.primary(key).label

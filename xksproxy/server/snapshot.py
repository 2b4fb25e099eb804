"""What can change in a running worker: built completely, then replaced by one assignment."""

import dataclasses
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from xksproxy.authorization.authorizer import Authorizer
from xksproxy.authorization.request import AuthorizationRequest
from xksproxy.config.model import Config, Tls
from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance
from xksproxy.keystore.store import KeyStore
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.authorization_check import AuthorizationCheck
from xksproxy.operations.version_search import VersionSearch
from xksproxy.server.http.service import Client
from xksproxy.server.quota import Quota
from xksproxy.server.state_tables import StateTables, StoreState
from xksproxy.server.tls import CertificateInfo, admit, build_context, certificate_info
from xksproxy.sigv4.verify import Identity
from xksproxy.spec.errors import XksError
from xksproxy.spec.messages import CryptoRequestMetadata, KeyRequestMetadata
from xksproxy.spec.uri import ApiPath
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class Service:
    """A key store and the access to its keys."""

    store: KeyStore
    access: KeyAccess
    fleet: Fleet
    state: StoreState
    quota: Quota | None = None
    authorizer: Authorizer | None = None
    """Applies the policies of the key store; None where it has none."""

    @property
    def ready(self) -> bool:
        """Whether an HSM serves its keys, and its state can be read."""
        return self.fleet.ready and not self.state.problem

    def access_for(
        self,
        path: ApiPath,
        identity: Identity,
        metadata: KeyRequestMetadata | CryptoRequestMetadata,
        vpc_endpoint_id: str | None = None,
    ) -> KeyAccess:
        """The access to the keys for one request. ``vpc_endpoint_id`` is the VPC endpoint of its connection."""
        if self.authorizer is None:
            return self.access
        request = AuthorizationRequest.of(path.operation, path.key_id, identity, metadata, vpc_endpoint_id)
        return self.access.authorized_by(AuthorizationCheck(self.authorizer, request))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Key stores by path prefix, and TLS."""

    services: Mapping[str, Service]
    tls: Tls
    context: ssl.SSLContext
    certificate: CertificateInfo
    loaded_at: float
    """Seconds since 1970."""

    def admit(self, connection: Any) -> Client:
        """Who is at the other end of a connection that was made with :attr:`context`.

        Raises:
            ConnectionRefused: it must be dropped.
        """
        return admit(self.tls, connection, time.time())


def build_snapshot(
    config: Config, instances: Mapping[str, Instance], usage: UsageBook, states: StateTables, runtime: Path
) -> Snapshot:
    """Build all of it, or raise. It reads files; the workers share quotas in ``runtime``.

    Blocks, key versions and fingerprints are those of ``states``, which every snapshot of a process shares.

    Raises:
        ConfigError: credentials, policies or certificates cannot be used.
    """
    fleet_size = config.server.fleet_size
    services = {}
    for table in config.keystore:
        state = states.of(table.name)
        store = KeyStore.build(table, fleet_size, state.versions, state.blocks, state.credential_uses)
        held_by = [instances[hsm_id] for hsm_id in table.hsms]
        services[table.uri_path_prefix] = dataclasses.replace(
            _service(store, held_by, state, usage),
            quota=Quota.of(table, runtime),
            authorizer=Authorizer.build(table),
        )
    tls = config.server.tls
    return Snapshot(services, tls, build_context(tls), certificate_info(tls), time.time())


def built_with(config: Config) -> tuple[object, ...]:
    """The settings that cannot change while a worker runs; all others are in the snapshot."""
    tls = replace(config.server.tls, certificate="-", private_key="-", client_ca=None, client_names=())
    return (
        replace(config.server, tls=tls),
        config.health,
        config.admin,
        config.audit,
        config.hsm,
        config.state,
        config.logging,
        config.tracing,
    )


def _service(store: KeyStore, instances: Sequence[Instance], state: StoreState, usage: UsageBook) -> Service:
    fleet = Fleet(
        instances,
        state.fingerprints,
        lambda label: store.keys.key_of_label(label) is not None,
        lambda: _primary_labels(store),
    )
    access = KeyAccess(store.keys, store.versions, store.blocks, VersionSearch(fleet), fleet, usage)
    fleet.prove_first(_primary_labels(store))
    return Service(store, access, fleet, state)


def _primary_labels(store: KeyStore) -> Iterator[str]:
    """The labels of the keys that the configuration names and that are not disabled.

    A key whose primary version is unknown is left out.
    """
    for key in store.keys.named_keys():
        with suppress(XksError):
            if not key.disabled:
                yield store.versions.primary(key).label

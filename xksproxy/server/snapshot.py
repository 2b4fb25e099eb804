"""The settings that can change in a running worker: built completely, then replaced by one assignment."""

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec

from xksproxy.authorization.authorizer import Authorizer
from xksproxy.authorization.policies import Policies, PolicyLibrary
from xksproxy.authorization.request import AuthorizationRequest
from xksproxy.config import model
from xksproxy.config.credentials import StoredCredential
from xksproxy.config.model import Config, Tls
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.shares import Share
from xksproxy.keystore.store import KeyStore, StoreRecords
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.authorization_check import AuthorizationCheck
from xksproxy.operations.version_search import VersionSearch
from xksproxy.server.accepted import LoadedPolicies, UsableFiles
from xksproxy.server.http.service import Client
from xksproxy.server.quota import Quota, Quotas
from xksproxy.server.state_tables import StateTables, StoreState
from xksproxy.server.tls import CertificateInfo, admit
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
    """Applies the policies of the key store; None if it has no policies."""

    inputs: object = None
    """The data from which it was built, for comparison."""

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
    clients: tuple[object, ...]
    """The rules for clients. A connection that was made under others ends with its next request."""

    loaded_at: float
    """Seconds since 1970."""

    prefixes: Mapping[str, str] = field(init=False)
    """The path prefixes by the names of the key stores."""

    def __post_init__(self) -> None:
        """Make :attr:`prefixes`."""
        prefixes = {service.store.name: prefix for prefix, service in self.services.items()}
        object.__setattr__(self, "prefixes", prefixes)

    def admit(self, connection: Any) -> Client:
        """Return the client of a connection that was made with :attr:`context`.

        Raises:
            ConnectionRefused: the connection must be dropped.
        """
        return admit(self.tls, connection, time.time())


@dataclass(frozen=True, slots=True)
class Foundations:
    """The parts that all snapshots of a process share."""

    instances: Mapping[str, Instance]
    usage: UsageBook
    states: StateTables
    """Blocks, key versions and fingerprints."""

    quotas: Quotas
    """Shared by the workers."""

    policies: PolicyLibrary


def build_snapshot(
    config: Config,
    foundations: Foundations,
    files: UsableFiles,
    previous: Snapshot | None = None,
    *,
    policies: LoadedPolicies | None = None,
) -> Snapshot:
    """Build a snapshot. It reads state, so call it on a thread if a snapshot serves.

    A key store whose table, credentials and policies are the same as in ``previous`` is taken from there. ``policies``
    are used instead of their files.

    Raises:
        ConfigError: policies cannot be used.
    """
    former = {} if previous is None else previous.services
    services = {}
    for table in config.keystore:
        loaded = _policies(table, foundations.policies, policies or {})
        credentials = files.credentials[table.credentials]
        # Equal data make equal key stores.
        inputs = table, config.server.fleet_size, foundations.states.retired.revision, credentials.signature, loaded
        service = former.get(table.uri_path_prefix)
        if service is None or service.inputs != inputs:
            service = _build_service(table, config.server.fleet_size, foundations, credentials.stored, loaded)
            service = replace(service, inputs=inputs)
        else:
            service.fleet.forget_missing_keys()
        services[table.uri_path_prefix] = service
    return Snapshot(services, config.server.tls, files.context, files.certificate, files.clients, time.time())


def _policies(table: model.KeyStore, library: PolicyLibrary, loaded: LoadedPolicies) -> Policies | None:
    if table.policies is None:
        return None
    return loaded.get(table.policies) or library.load(table.policies)


def _build_service(
    table: model.KeyStore,
    fleet_size: int,
    foundations: Foundations,
    stored: Sequence[StoredCredential],
    policies: Policies | None,
) -> Service:
    state = foundations.states.of(table.name)
    records = StoreRecords(state.versions, state.blocks, state.credential_uses, foundations.states.retired)
    store = KeyStore.build(table, fleet_size, stored, records)
    held_by = [foundations.instances[hsm_id] for hsm_id in table.hsms]
    fleet = Fleet(
        held_by,
        state.fingerprints,
        store.exposes,
        partial(_needed_labels, store, state.fingerprints),
        encrypts=store.encrypts_with,
        unrecorded=store.is_unrecorded,
        share=Share(table.name, table.weight),
        revision=state.versions.as_of,
    )
    access = KeyAccess(store.keys, store.versions, store.blocks, VersionSearch(fleet), fleet, foundations.usage)
    fleet.require_fingerprints(primary_labels(store))
    quota = foundations.quotas.of(table)
    return Service(store, access, fleet, state, quota, Authorizer.build(table, policies))


def fixed_settings(config: Config) -> tuple[object, ...]:
    """The settings that cannot change while a worker runs; all others are in the snapshot."""
    tls = msgspec.structs.replace(config.server.tls, certificate="-", private_key="-", client_ca=None, client_names=())
    return (
        msgspec.structs.replace(config.server, tls=tls),
        config.health,
        config.admin,
        config.metrics,
        config.audit,
        config.hsm,
        config.state,
        config.logging,
        config.tracing,
    )


def _needed_labels(store: KeyStore, records: FingerprintRecords) -> Iterator[str]:
    """:func:`primary_labels`, and those of keys that only a pattern exposes, if they were used."""
    yield from primary_labels(store)
    for label in records.expected():
        key = store.key_of_primary(label)
        if key is not None and not key.disabled:
            yield label


def primary_labels(store: KeyStore) -> Iterator[str]:
    """The labels of the keys that the configuration names and that are not disabled.

    A key whose primary version is unknown is left out.
    """
    for key in store.keys.named_keys():
        with suppress(XksError):
            if not key.disabled:
                yield store.versions.primary(key).label

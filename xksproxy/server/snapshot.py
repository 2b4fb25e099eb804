"""What can change in a running worker, built whole and then put in place by one assignment."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from xksproxy.config import model
from xksproxy.config.model import Config, Tls
from xksproxy.hsm.fleet import Fleet
from xksproxy.hsm.instance import Instance
from xksproxy.hsm.keyrecords import KeyRecords
from xksproxy.keystore.store import KeyStore
from xksproxy.operations.engine import Engine
from xksproxy.server.tls import build_context


@dataclass(frozen=True, slots=True)
class Service:
    """A key store and the engine that holds its keys."""

    store: KeyStore
    engine: Engine
    ready: "Readiness"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether any of some HSMs serves."""

    instances: tuple[Instance, ...]

    def __bool__(self) -> bool:
        return any(instance.serving for instance in self.instances)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Key stores by path prefix, and TLS."""

    services: Mapping[str, Service]
    tls: Tls
    context: ssl.SSLContext


def build_snapshot(config: Config, instances: Mapping[str, Instance]) -> Snapshot:
    """Build it all, or nothing.

    Raises:
        ConfigError: credentials or certificates cannot be read.
    """
    state = Path(config.state.directory)
    services = {table.uri_path_prefix: _service(table, instances, state) for table in config.keystore}
    return Snapshot(services, config.server.tls, build_context(config.server.tls))


def built_with(config: Config) -> tuple[object, ...]:
    """What a worker is built with, and so cannot change while it runs; all else is in the snapshot."""
    tls = replace(config.server.tls, certificate="-", private_key="-", client_ca=None, client_names=())
    return replace(config.server, tls=tls), config.health, config.hsm, config.state, config.logging


def _service(table: model.KeyStore, instances: Mapping[str, Instance], state: Path) -> Service:
    store = KeyStore.build(table)
    own = tuple(instances[hsm_id] for hsm_id in table.hsms)
    fleet = Fleet(own, KeyRecords(state / f"keys-{table.name}.json"), store.keys.exposes)
    return Service(store, fleet, Readiness(own))

"""Builds the parts of an emulator. They belong to one event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from xksproxy_tools.kms_emulator.aliases import Aliases
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters
from xksproxy_tools.kms_emulator.connections import Connections
from xksproxy_tools.kms_emulator.connector import Connector
from xksproxy_tools.kms_emulator.crypto import Crypto
from xksproxy_tools.kms_emulator.durations import Durations
from xksproxy_tools.kms_emulator.expiry import Expiry
from xksproxy_tools.kms_emulator.health_checks import HealthChecks
from xksproxy_tools.kms_emulator.key_backends import KeyBackends
from xksproxy_tools.kms_emulator.key_creation import KeyCreation
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver
from xksproxy_tools.kms_emulator.key_stores import KeyStores
from xksproxy_tools.kms_emulator.keys import Keys
from xksproxy_tools.kms_emulator.operations import Operations
from xksproxy_tools.kms_emulator.policies import Policies
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.quotas import StoreQuotas
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.tags import Tags
from xksproxy_tools.kms_emulator.unsupported_operations import UnsupportedOperations
from xksproxy_tools.kms_emulator.vpc_services import VpcServices


@dataclass(frozen=True, slots=True)
class Emulator:
    """The parts that the server runs."""

    operations: Operations
    connections: Connections
    expiry: Expiry
    health_checks: HealthChecks


def assemble(
    database: Database,
    proxies: ProxyClient,
    clusters: CloudHsmClusters,
    services: VpcServices,
    *,
    durations: Durations,
    quotas: StoreQuotas,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Emulator:
    """Build all parts. ``clock`` returns seconds since the epoch; ``wait`` waits for a number of seconds."""
    resolver = KeyResolver(database, services.region)
    connections = Connections(
        database, Connector(proxies, clusters, services), clock=clock, durations=durations, wait=wait
    )
    operations = Operations(
        stores=KeyStores(
            database=database,
            connections=connections,
            proxies=proxies,
            clusters=clusters,
            services=services,
            clock=clock,
        ),
        creation=KeyCreation(database, resolver, proxies, clusters, clock),
        keys=Keys(database, resolver, clock),
        crypto=Crypto(resolver, KeyBackends(proxies, clusters), quotas),
        aliases=Aliases(database, resolver, clock),
        tags=Tags(database, resolver),
        policies=Policies(database, resolver),
        refusals=UnsupportedOperations(resolver),
    )
    return Emulator(operations, connections, Expiry(database, clusters, clock), HealthChecks(database, proxies, wait))

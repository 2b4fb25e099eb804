"""The parts of an emulator, put together. Belongs to one event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from xksproxy_tools.kms_emulator.aliases import Aliases
from xksproxy_tools.kms_emulator.backings import Backings
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters
from xksproxy_tools.kms_emulator.connecting import Connector
from xksproxy_tools.kms_emulator.connections import Connections
from xksproxy_tools.kms_emulator.crypto import Crypto
from xksproxy_tools.kms_emulator.durations import Durations
from xksproxy_tools.kms_emulator.expiry import Expiry
from xksproxy_tools.kms_emulator.finder import KeyFinder
from xksproxy_tools.kms_emulator.healthchecks import HealthChecks
from xksproxy_tools.kms_emulator.keycreation import KeyCreation
from xksproxy_tools.kms_emulator.keys import Keys
from xksproxy_tools.kms_emulator.keystores import KeyStores
from xksproxy_tools.kms_emulator.operations import Operations
from xksproxy_tools.kms_emulator.policies import Policies
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.quotas import StoreQuotas
from xksproxy_tools.kms_emulator.refusals import Refusals
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.tags import Tags
from xksproxy_tools.kms_emulator.vpcservices import VpcServices


@dataclass(frozen=True, slots=True)
class Emulator:
    """What there is to run beside answering requests."""

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
    """Build everything; ``clock`` gives seconds since the epoch, ``wait`` waits for some seconds."""
    finder = KeyFinder(database, services.region)
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
        creation=KeyCreation(database, finder, proxies, clusters, clock),
        keys=Keys(database, finder, clock),
        crypto=Crypto(finder, Backings(proxies, clusters), quotas),
        aliases=Aliases(database, finder, clock),
        tags=Tags(database, finder),
        policies=Policies(database, finder),
        refusals=Refusals(finder),
    )
    return Emulator(operations, connections, Expiry(database, clusters, clock), HealthChecks(database, proxies, wait))

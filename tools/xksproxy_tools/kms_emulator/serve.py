"""Runs an emulator as a server."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import web

from xksproxy.config.model import Hsm
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy_tools.kms_emulator.assembly import Emulator, assemble
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters
from xksproxy_tools.kms_emulator.durations import AWS_DURATIONS, Durations
from xksproxy_tools.kms_emulator.endpoint import Endpoint
from xksproxy_tools.kms_emulator.names import Region
from xksproxy_tools.kms_emulator.protocol.caller import Caller, Callers
from xksproxy_tools.kms_emulator.protocol.model import KmsModel, ModelUnusable
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.connection import Peer
from xksproxy_tools.kms_emulator.quotas import REQUESTS_PER_SECOND, StoreQuotas
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.vpc_services import VpcServices

_SHUTDOWN_SECONDS: Final = 5.0
_CLUSTER_SECONDS: Final = 10.0

__all__ = ["CannotListen", "ModelUnusable", "Settings", "running", "serve"]


class CannotListen(Exception):
    """The emulator cannot listen on the address; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an emulator."""

    host: str
    port: int
    """0 means any free port."""

    state: Path
    """The state file. The HSM engine stores its records in a directory beside it, named like the file with ``-hsm``."""

    region: str
    account: str
    resolve: Mapping[Peer, Peer] = field(default_factory=dict)
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    durations: Durations = AWS_DURATIONS
    clusters: Mapping[str, Hsm] = field(default_factory=dict)
    callers: Mapping[str, Caller] = field(default_factory=dict)
    vpc_services: frozenset[str] = frozenset()
    requests_per_second: int = REQUESTS_PER_SECOND
    time_limit_ms: int = KMS_TIMEOUT_MS
    """For one call to a proxy. A call to a cluster may take ten seconds, or this time if it is longer."""


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ``ready`` is called with the URL.

    Raises:
        StateFileUnusable, TargetError, ModelUnusable: a file, or the data of botocore, cannot be used.
        CannotListen: the address cannot be used.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with running(settings) as url:
        ready(url)
        await ended.wait()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Run an emulator and yield its URL; close the state file at the end. Raises the errors of :func:`serve`."""
    region = Region(settings.region)
    async with AsyncExitStack() as stack:
        database = stack.enter_context(closing(Database.open(settings.state, region.name)))
        proxies = await stack.enter_async_context(
            ProxyClient(
                region.name,
                resolve=settings.resolve,
                ca=settings.ca,
                client_certificate=settings.client_certificate,
                client_key=settings.client_key,
                time_limit=settings.time_limit_ms / 1000,
            )
        )
        clusters = CloudHsmClusters(
            settings.clusters,
            settings.state.with_name(f"{settings.state.name}-hsm"),
            time_limit=max(_CLUSTER_SECONDS, settings.time_limit_ms / 1000),
        )
        stack.push_async_callback(clusters.close)
        emulator = assemble(
            database,
            proxies,
            clusters,
            VpcServices(region, settings.vpc_services),
            durations=settings.durations,
            quotas=StoreQuotas(time.monotonic, settings.requests_per_second),
        )
        callers = Callers(region.name, settings.account, settings.callers)
        endpoint = Endpoint(KmsModel.load(), callers, emulator.operations, emulator.expiry)
        yield await stack.enter_async_context(_listening(endpoint, emulator, settings))


@asynccontextmanager
async def _listening(endpoint: Endpoint, emulator: Emulator, settings: Settings) -> AsyncIterator[str]:
    runner = web.AppRunner(endpoint.application(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    health_checks = asyncio.create_task(emulator.health_checks.run())
    try:
        await emulator.connections.resume()
        await _listen(runner, settings)
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        health_checks.cancel()
        await runner.cleanup()
        await emulator.connections.close()


async def _listen(runner: web.AppRunner, settings: Settings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        # asyncio replaces the text of a failed bind. A name without an address has a negative errno.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise CannotListen(f"{settings.host}:{settings.port}: {reason}") from error

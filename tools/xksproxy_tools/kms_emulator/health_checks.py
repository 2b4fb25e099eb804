"""KmsHealthCheck: the request that KMS sends to connected proxies every few minutes."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from xksproxy_tools.kms_emulator import proxy_settings, request_metadata
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KeyStore

_log: Final = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 300.0


class HealthChecks:
    """Checks proxies, and logs those that are not healthy. A key store stays CONNECTED in any case."""

    def __init__(
        self, database: Database, proxies: ProxyClient, wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._database = database
        self._proxies = proxies
        self._wait = wait

    async def run(self) -> None:
        """Check regularly until cancelled."""
        while True:
            await self._wait(INTERVAL_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Check all proxies of connected key stores once."""
        for store in self._database.key_stores():
            if store.connected:
                await self._check(store)

    async def _check(self, store: KeyStore) -> None:
        if store.proxy is None:
            return
        metadata = request_metadata.of_health(str(uuid.uuid4()), "KmsHealthCheck")
        try:
            await self._proxies.health(proxy_settings.address(store.proxy), metadata)
        except ProxyFailure as failure:
            fields = {"key_store": store.id, "name": store.name, "reason": str(failure)}
            _log.warning("proxy is not healthy", extra={"fields": fields})

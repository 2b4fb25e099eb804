"""The listeners that are not for KMS, for probes and operators: plain HTTP, served by aiohttp."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

_log: Final = logging.getLogger(__name__)
_MAXIMUM_CONNECTIONS: Final = 256
_IDLE_SECONDS: Final = 360.0
_FAREWELL_SECONDS: Final = 1.0


class PlainListener:
    """Serves at most 256 connections; one more closes the one that was made first."""

    def __init__(
        self, listening: socket.socket, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._handler = web.Server(handler, access_log=None, logger=_log, keepalive_timeout=_IDLE_SECONDS)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._listening)

    async def stop(self) -> None:
        """Accept no more, and close all connections once they are idle, or after a second."""
        if self._server is not None:
            self._server.close()
        self._handler.pre_shutdown()
        await self._handler.shutdown(_FAREWELL_SECONDS)

    def _connection(self) -> RequestHandler:
        connections = self._handler.connections
        if len(connections) >= _MAXIMUM_CONNECTIONS:
            connections[0].force_close()
        return self._handler()

"""The plain HTTP listeners for health checks and operators, served by aiohttp."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from xksproxy.server.peer import Peer, PeerReader, PeerRefused

_log: Final = logging.getLogger(__name__)
_MAXIMUM_CONNECTIONS: Final = 256
_IDLE_SECONDS: Final = 360.0
_REQUEST_SECONDS: Final = 0.2
_CLOSE_SECONDS: Final = 1.0
_HEADER_SECONDS: Final = 2.0


class PlainListener:
    """Serves at most 256 connections. One more closes the oldest one."""

    def __init__(
        self,
        listening: socket.socket,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        peers: PeerReader | None = None,
    ) -> None:
        """``peers`` accepts a PROXY protocol header before a request; None if there can be no header."""
        listening.setblocking(False)
        self._peers = peers
        self._listening = listening
        self._handler = web.Server(handler, access_log=None, logger=_log, keepalive_timeout=_IDLE_SECONDS)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._listening)

    async def stop(self) -> None:
        """Stop accepting; 0.2 s later close each connection when it is idle, or after a second.

        The request of a connection that was accepted just before may still be under way.
        """
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(_REQUEST_SECONDS)
        self._handler.pre_shutdown()
        await self._handler.shutdown(_CLOSE_SECONDS)

    def _connection(self) -> asyncio.Protocol:
        connections = self._handler.connections
        if len(connections) >= _MAXIMUM_CONNECTIONS:
            connections[0].force_close()
        return self._handler() if self._peers is None else _AfterProxyHeader(self._handler(), self._peers)


class _AfterProxyHeader(asyncio.Protocol):
    """Removes the PROXY protocol header at the beginning of a connection, and forwards all other data."""

    def __init__(self, protocol: RequestHandler, peers: PeerReader) -> None:
        self._protocol = protocol
        self._peers = peers
        self._peer = Peer("unknown")
        self._before_http: bytes | None = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the address of the socket."""
        self._transport = transport
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = Peer.of(address)
        self._protocol.connection_made(transport)
        asyncio.get_running_loop().call_later(_HEADER_SECONDS, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._transport = None
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Forward the data after the header."""
        if self._before_http is not None:
            data = self._before_http + data
            try:
                found = self._peers.determine(data, self._peer)
            except PeerRefused:
                self._protocol.force_close()
                return
            if found is None:
                self._before_http = data
                return
            self._before_http = None
            data = data[found[1] :]
        if data:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        self._protocol.eof_received()
        return None

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def _expire(self) -> None:
        """Close a connection that has sent nothing, or an incomplete header."""
        if self._before_http is not None and self._transport is not None:
            self._protocol.force_close()

"""A listener of the proxy in this process, with a handler of a test's own, and clients on real sockets over TLS."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from xksproxy_tools.development.certificates import certificate_pem, create_authority, issue, write_private

from xksproxy.server import respond
from xksproxy.server.http.connection_counts import ConnectionCounts
from xksproxy.server.http.connection_table import ConnectionTable
from xksproxy.server.http.listener import Listener
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.http.service import Client, HttpService
from xksproxy.server.peer import PeerReader

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Front:
    """A listener, and how to reach it."""

    port: int
    service: HttpService
    listener: Listener
    client_context: ssl.SSLContext

    async def connect(self, *, limit: int = 2**20) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.client_context, server_hostname="localhost", limit=limit
        )


@dataclass(frozen=True)
class OpenTerms:
    """Everybody may come."""

    context: ssl.SSLContext
    clients: object = None

    def admit(self, connection: Any) -> Client:
        return Client()


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server and of its clients."""
    directory = tmp_path_factory.mktemp("tls")
    authority = create_authority("xksproxy test CA")
    (directory / "ca.pem").write_bytes(certificate_pem(authority.certificate))
    certificate, key = issue(authority, "localhost", hosts=["localhost"])
    write_private(directory / "server.pem", certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem")
    return server, ssl.create_default_context(cafile=directory / "ca.pem")


@pytest.fixture
def serving(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Callable[..., Any]:
    """Makes a listener that serves by a handler."""

    @asynccontextmanager
    async def serve(
        handler: Handler,
        maximum: int = 100,
        *,
        listening: socket.socket | None = None,
        counts: ConnectionCounts | None = None,
    ) -> AsyncIterator[Front]:
        listening = listening or socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        peers = PeerReader(None, lambda _: None)
        service = HttpService(handler, respond.refusal, lambda: OpenTerms(contexts[0]), peers, ConnectionTable(maximum))
        listener = Listener(listening, service, counts or ConnectionCounts())
        listener.start()
        try:
            yield Front(port, service, listener, contexts[1])
        finally:
            await listener.stop_accepting(in_all_processes=False)
            await listener.drain(0)
            assert len(service.table) == 0

    return serve

"""TLS servers in this process that do as a test says: where a proxy should be, or something else."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from xksproxy_tools.development.certificates import Authority, certificate_pem, create_authority, issue, write_private
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient

from xksproxy.sigv4.keyring import Credential

HOST = "xks.example.com"
CREDENTIAL = Credential("AKIAEXAMPLEEXAMPLE23", "PleaseReplaceThisWithSomeSecretOfLength43To64")
ADDRESS = ProxyAddress(f"https://{HOST}", "/payments/kms/xks/v1", CREDENTIAL)
REGION = "eu-west-1"

HEALTHY = {
    "xksProxyFleetSize": 1,
    "xksProxyVendor": "Acme",
    "xksProxyModel": "Acme XKS 1.0",
    "ekmVendor": "Thales",
    "ekmFleetDetails": [{"id": "hsm-1", "model": "Luna 7", "healthStatus": "ACTIVE"}],
}

PATIENT_SECONDS = 60.0
"""A time limit for what must not run out of time, however loaded the machine is."""

_CLOSE_SECONDS = 2.0

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Certificates:
    """An authority that a client trusts, and the contexts of servers with its certificates."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = create_authority("xksproxy test CA")
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(certificate_pem(self._authority.certificate))

    def context(self, host: str = HOST, *, days: int = 30, authority: Authority | None = None) -> ssl.SSLContext:
        """A server's context. With 0 days its certificate has just expired."""
        certificate, key = issue(authority or self._authority, host, hosts=[host], days=days)
        path = self._directory / "server.pem"
        write_private(path, certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client_pem(self, common_name: str) -> Path:
        """A file with a client's certificate and key."""
        certificate, key = issue(self._authority, common_name, client=True)
        path = self._directory / "client.pem"
        write_private(path, certificate + key)
        return path


@asynccontextmanager
async def http_server(answer: Answer, context: ssl.SSLContext) -> AsyncIterator[int]:
    """An HTTPS server on a free port of this machine."""
    handler = web.Server(answer, handler_cancellation=True, access_log=None)
    server = await asyncio.get_running_loop().create_server(handler, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await handler.shutdown(0)


@asynccontextmanager
async def byte_server(handle: Handle, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that need not speak HTTP, nor TLS; what it does not read stays unread."""
    tasks = set()

    async def handle_until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        try:
            with suppress(ConnectionError, ssl.SSLError):
                await handle(reader, writer)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle_until_the_end, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        # Before Python 3.12, this waits for connections only if it is called before close().
        closed = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0)
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A connection whose client has gone during the handshake ends by itself.
        with suppress(TimeoutError):
            await asyncio.wait_for(closed, _CLOSE_SECONDS)


@contextmanager
def refusing_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server whose handshakes fail, and which says so by an alert, as servers other than asyncio's do."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as executor:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    refuse_one(listener.accept()[0])

        def refuse_one(connection: socket.socket) -> None:
            with connection.dup() as raw, suppress(OSError):
                shaken = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with shaken, suppress(ssl.SSLError):
                    shaken.do_handshake()
                    raise AssertionError("the handshake should have failed")
                while raw.recv(65536):  # unread data would make the kernel discard the alert
                    pass

        refusing = executor.submit(refuse)
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        refusing.result()


async def never(*_: object, **__: object) -> Any:
    """No answer, ever."""
    await asyncio.Event().wait()


def answering(body: Mapping[str, Any] | bytes, status: int = 200) -> Answer:
    """Always the same answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(status=status, body=content, content_type="application/json")

    return answer


def client_of(port: int, certificates: Certificates, seconds: float = PATIENT_SECONDS, **settings: Any) -> ProxyClient:
    """A client for which the proxy's host is on a port of this machine."""
    rules = {(HOST, 443): ("127.0.0.1", port)}
    return ProxyClient(REGION, **{"resolve": rules, "ca": certificates.ca, "time_limit": seconds, **settings})

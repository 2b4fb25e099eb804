"""One HTTP connection: aiohttp's protocol with our refusals, time bounds and JSON errors."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from xksproxy.server import respond
from xksproxy.server.peer import Peer
from xksproxy.server.tls import client_name
from xksproxy.spec.errors import InternalException, ValidationException, XksError
from xksproxy.spec.limits import MAXIMUM_BODY_BYTES

_log: Final = logging.getLogger(__name__)

IDLE_SECONDS: Final = 360.0
"""An idle connection is closed after this; a network load balancer forgets it after 350 s, and should be first."""

HEAD_SECONDS: Final = 5.0
"""A request line and headers that have begun must be complete after this."""

_LINGER_SECONDS: Final = 1.0
_MAXIMUM_HEAD_LINE_BYTES: Final = 8190


class Connection(RequestHandler):
    """A connection whose TLS handshake, if any, is done."""

    __slots__ = ("_head_timer", "_last_payload", "_refusal", "authenticated", "client_name", "idle_since", "peer")

    def __init__(self, manager: "HttpServer", refusal: Callable[[Any], str | None]) -> None:
        super().__init__(
            manager,
            loop=manager.loop,
            keepalive_timeout=IDLE_SECONDS,
            logger=_log,
            access_log=None,  # type: ignore[arg-type]
            lingering_time=_LINGER_SECONDS,
            max_line_size=_MAXIMUM_HEAD_LINE_BYTES,
            max_field_size=_MAXIMUM_HEAD_LINE_BYTES,
            auto_decompress=False,
            read_bufsize=MAXIMUM_BODY_BYTES,
        )
        self._refusal = refusal
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        self.peer = Peer("unknown")
        """The client. The acceptor sets it."""
        self.client_name: str | None = None
        """The common name of the client's certificate, if it showed one."""
        self.authenticated = False
        """Whether a signed request has come on it."""
        self.idle_since: float | None = None
        """Loop time since when no request is in progress; None while one is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at who comes before a byte of a request is read (R-TLS-8)."""
        connection = transport.get_extra_info("ssl_object")
        reason = None if connection is None else self._refusal(connection)
        if reason is not None:
            _log.warning("connection refused", extra={"fields": {"reason": reason, "peer": self.peer.address}})
            self._force_close = True
            transport.abort()  # type: ignore[attr-defined]
            return
        self.client_name = client_name(connection)
        self.idle_since = self._loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the timer with the connection."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the parser; a head that has begun runs against a timer."""
        in_a_body = not self._last_payload.is_eof()
        super().data_received(data)
        if self._messages:
            self._last_payload = self._messages[-1][1]
            self._stop_head_timer()
        elif data and self._head_timer is None and not in_a_body and not self._force_close:
            self._head_timer = self._loop.call_later(HEAD_SECONDS, self.drop)

    def drop(self) -> None:
        """Close at once: a TLS farewell would wait for a peer that may not answer."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """What aiohttp answers by itself, as an error of the API (R-ERR-4)."""
        error: XksError
        if isinstance(exc, HttpProcessingError):
            error = ValidationException(f"Not an HTTP request this proxy reads: {type(exc).__name__}")
        else:
            error = InternalException("The proxy failed; its log says where")
        _log.warning("bad HTTP", extra={"fields": {"peer": self.peer.address, "reason": type(exc).__name__}})
        response = respond.failure(error)
        response.force_close()
        return response


class HttpServer(web.Server):
    """Makes a :class:`Connection` for each accepted socket and hands requests to ``handler``."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        refusal: Callable[[Any], str | None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._refusal = refusal
        super().__init__(self._track(handler))

    def __call__(self) -> Connection:
        """A protocol for one more connection."""
        return Connection(self, self._refusal)

    @property
    def idle_connections(self) -> list[Connection]:
        """Connections without a request: first those that never carried a signed one, then by their idle time."""
        idle = [item for item in self.connections if isinstance(item, Connection) and item.idle_since is not None]
        return sorted(idle, key=lambda item: (item.authenticated, item.idle_since or 0.0))

    def _track(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Keep :attr:`Connection.idle_since` around each request."""

        async def tracked(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            if not isinstance(connection, Connection):
                return await handler(request)
            connection.idle_since = None
            try:
                response = await handler(request)
            finally:
                connection.idle_since = self.loop.time()
            if request.version not in (HttpVersion10, HttpVersion11):
                # The answer would name the request's version as its own.
                request._cache["version"] = HttpVersion11  # noqa: SLF001 - aiohttp has no other way
                response.force_close()
            return response

        return tracked

"""One connection of the public listener: TLS, then one request after another, each answered before the next is read."""

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final, Protocol, cast

from xksproxy.server.http.body import Body
from xksproxy.server.http.connection_table import ConnectionTable, Stage
from xksproxy.server.http.errors import BadRequest, BodyMalformed, BodyTooLarge, ClientGone
from xksproxy.server.http.head import Head
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.http.pacer import Pacer
from xksproxy.server.http.reader import RequestReader
from xksproxy.server.http.tls_stream import TlsStream
from xksproxy.server.peer import Peer, PeerReader, PeerRefused

_log: Final = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 2.0
"""A TLS handshake must be done after this; KMS waits 250 ms for handshake and answer together (R-TIME-1)."""

GRACE_SECONDS: Final = 1.0
"""So long a connection is spared whose handshake is just done: its first request is on the way."""

IDLE_SECONDS: Final = 360.0
"""An idle connection is closed after this; a network load balancer forgets it after 350 s, and should be first."""

HEAD_SECONDS: Final = 5.0
"""A request line and headers that have begun must be complete after this."""

WRITE_SECONDS: Final = 5.0
"""An answer must be taken after this."""

_LINGER_SECONDS: Final = 1.0
"""So long a client that was answered may take to close, or to send the rest of a body that nobody wants."""

_READ_BYTES: Final = 32 * 1024
_HANDSHAKES_A_ROUND: Final = 4
_STRANGERS_A_ROUND: Final = 16
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ConnectionRefused(Exception):
    """The client's side of the TLS handshake is not acceptable; the text says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end, by the certificate it showed."""

    name: str | None = None
    """The common name; None without a certificate."""

    expires: float = math.inf
    """When the certificate expires, in seconds since 1970."""


class TlsTerms(Protocol):
    """With what a handshake is made, and who may come. Those of one connection stay the same."""

    @property
    def context(self) -> ssl.SSLContext:
        """Certificate, versions and suites."""

    def admit(self, connection: Any) -> Client:
        """Look at who comes before a byte of a request is read (R-TLS-8).

        Raises:
            ConnectionRefused: not this one.
        """


@dataclass(slots=True)
class HttpService:
    """What the connections of a listener share."""

    handler: Callable[[Request], Awaitable[Response]]
    refuse: Callable[[BadRequest], Response]
    """Makes the answer to what is no request."""

    terms: Callable[[], TlsTerms]
    """Those of the next connection."""

    peers: PeerReader
    """Determines the peer of each connection, from its socket or from a PROXY protocol header."""

    table: ConnectionTable
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    draining: bool = False
    """Once set, every answer closes its connection."""

    closes_after_answer: bool = False
    """The same, while this process has no HSM and others have."""

    buffer: bytearray = field(default_factory=lambda: bytearray(_READ_BYTES))
    """Into which each connection reads in turn."""

    handshakes: Pacer = field(init=False)
    """Turns for the first step of a handshake, which costs as much as several requests."""

    strangers: Pacer = field(init=False)
    """Turns for the requests of strangers, but for the first of each: that of KMS is signed."""

    _date: tuple[int, bytes] = (0, b"")

    def __post_init__(self) -> None:
        self.handshakes = Pacer(self.loop, _HANDSHAKES_A_ROUND)
        self.strangers = Pacer(self.loop, _STRANGERS_A_ROUND)

    def date(self) -> bytes:
        """The Date header line of now."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode())
        return self._date[1]


class Connection(asyncio.BufferedProtocol):
    """Reads a request only once the one before it was answered, and the answer was taken by the client.

    So a client costs no more memory than one request, one answer, and what was received with the request.
    """

    __slots__ = (
        "_before_tls",
        "_body",
        "_broken",
        "_client",
        "_ended",
        "_handling",
        "_head",
        "_head_begun",
        "_hello_answered",
        "_paused",
        "_peer",
        "_reader",
        "_service",
        "_task",
        "_terms",
        "_tls",
        "_transport",
        "_unsent",
        "_waits_for_turn",
        "authenticated",
        "expires_at",
        "grace_until",
        "stage",
    )

    def __init__(self, service: HttpService) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._peer = Peer("unknown")
        self._before_tls: bytes | None = b""
        """What was received before the peer was known; None since then."""
        self._terms: TlsTerms | None = None
        self._tls: TlsStream | None = None
        self._client = Client()
        self._reader = RequestReader()
        self._task: asyncio.Task[None] | None = None
        self._head: Head | None = None
        """That of the request which is being handled, or was last."""
        self._head_begun = False
        self._hello_answered = False
        self._body: Body | None = None
        """The body that is still arriving."""
        self._handling = False
        self._broken = False
        """Whether what follows cannot be told from the body of the last request."""
        self._ended = False
        """Whether the client sends no more."""
        self._unsent = False
        """Whether the client has yet to take some of what it was sent."""
        self._paused = False
        self._waits_for_turn = False
        self.authenticated = False
        self.stage = Stage.SILENT
        self.expires_at = math.inf
        self.grace_until = math.inf

    # --- The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place among the connections, or leave."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # so that pause_writing says when something is unsent
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = Peer.of(address)
        now = self._service.loop.time()
        self.expires_at = now + HANDSHAKE_SECONDS
        if not self._service.table.admit(self, now):
            self.drop()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go; whoever waits for the rest of a body is told."""
        self._transport = None
        self._service.table.remove(self)
        self._give_up_body()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """Where to read into."""
        return self._service.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what was received."""
        if self._transport is None or self.stage is Stage.CLOSING:
            return
        # A header of the PROXY protocol would come here, before the first byte of TLS.
        received: bytes | memoryview = memoryview(self._service.buffer)[:nbytes]
        if self._before_tls is not None:
            received = self._after_proxy_header(self._before_tls + received)
            if not received:
                return
        tls = self._tls or self._begin_tls()
        tls.feed(received)
        self._go_on()

    def eof_received(self) -> bool:
        """The client sends no more. Whether the connection stays open for the answer to what it sent before."""
        if self._tls is None or not self._tls.established:
            if self.stage is Stage.HANDSHAKE:
                self._log_failed_tls("the client closed the connection during the handshake")
            elif self._before_tls:
                self._service.peers.end_of_input(self._before_tls, self._peer)
            return False
        self._end_input()
        return self.stage is not Stage.CLOSING

    def pause_writing(self) -> None:
        """Read no more until the client has taken what it was sent."""
        self._unsent = True
        self.expires_at = min(self.expires_at, self._service.loop.time() + WRITE_SECONDS)

    def resume_writing(self) -> None:
        """Go on: the client has taken all it was sent."""
        self._unsent = False
        if self.stage is Stage.CLOSING:
            self.expires_at = self._service.loop.time() + _LINGER_SECONDS
        elif self._tls is not None and self._tls.established:
            self.expires_at = math.inf if self._handling else self._service.loop.time() + IDLE_SECONDS
            self._go_on()

    # --- The table's calls

    def drop(self) -> None:
        """Close at once: a farewell would wait for a peer that may not answer."""
        self._service.table.remove(self)
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """An idle connection is closed in form, any other at once."""
        if self.stage in (Stage.STRANGER, Stage.CLIENT) and not (self._head_begun or self._unsent or self._body):
            self.close()
            return
        if self.stage is Stage.HANDSHAKE:
            self._log_failed_tls(f"the handshake took longer than {HANDSHAKE_SECONDS:.0f} s")
        self.drop()

    def close(self) -> None:
        """Send nothing after what was sent, and wait a little for the client to close.

        Closing at once what the client still sends to could make its system discard the answer (RFC 9112 section 9.6).
        """
        transport, tls = self._transport, self._tls
        if transport is None or tls is None:
            self.drop()
            return
        self._service.table.move(self, Stage.CLOSING)
        self.expires_at = self._service.loop.time() + (WRITE_SECONDS if self._unsent else _LINGER_SECONDS)
        tls.close()
        self._flush()
        if self._ended:
            transport.close()
            return
        transport.write_eof()
        self._resume_reading()

    # --- Reading

    def _go_on(self) -> None:
        """Handle what was received, at once or when it is this connection's turn."""
        if self._waits_for_turn:
            self._pause_reading()
            return
        if not self._hello_answered:
            self._wait_for_turn(self._service.handshakes)
        elif self._head is not None and not (self.authenticated or self._body):
            self._wait_for_turn(self._service.strangers)
        else:
            self._take_turn()

    def _wait_for_turn(self, pacer: Pacer) -> None:
        self._waits_for_turn = True
        pacer.add(self._take_turn)

    def _take_turn(self) -> None:
        self._waits_for_turn = False
        tls = self._tls
        if self._transport is None or self.stage is Stage.CLOSING or tls is None:
            return
        try:
            if tls.established or self._shake_hands(tls):
                self._advance()
            else:
                self._resume_reading()
        except ssl.SSLError as error:
            self._fail_tls(error)
        except Exception:  # noqa: BLE001 - the worker must go on, whatever it is
            _log.exception("a connection failed")
            self.drop()

    def _after_proxy_header(self, received: bytes) -> bytes:
        """What follows the PROXY protocol header, which comes before TLS; nothing until the header is complete."""
        try:
            found = self._service.peers.determine(received, self._peer)
        except PeerRefused:
            self.drop()
            return b""
        if found is None:
            self._before_tls = received
            return b""
        self._peer, length = found
        self._before_tls = None
        return received[length:]

    def _begin_tls(self) -> TlsStream:
        self._terms = self._service.terms()
        self._tls = TlsStream(self._terms.context)
        self._service.table.move(self, Stage.HANDSHAKE)
        return self._tls

    def _shake_hands(self, tls: TlsStream) -> bool:
        """Whether the handshake is done and the client may come."""
        try:
            if not tls.shake_hands():
                self._hello_answered = self._flush()
                return False
        except ssl.SSLError:
            self._flush()  # the alert
            raise
        try:
            self._client = cast(TlsTerms, self._terms).admit(tls.connection)
        except ConnectionRefused as refused:
            # Nothing is flushed: a refused client gets no session ticket.
            _log.warning("connection refused", extra={"fields": {"reason": str(refused), "peer": self._peer.address}})
            self.drop()
            return False
        self.authenticated = self._client.name is not None
        now = self._service.loop.time()
        self.grace_until, self.expires_at = now + GRACE_SECONDS, now + IDLE_SECONDS
        self._service.table.move(self, Stage.CLIENT if self.authenticated else Stage.STRANGER)
        self._flush()
        return True

    def _advance(self) -> None:
        """Read on until there is no more, or it has to wait for an answer."""
        tls = cast(TlsStream, self._tls)
        while self._may_read():
            if not self._step():
                data = tls.read()
                if data is None:
                    break
                if not data:
                    self._end_input()
                    break
                self._reader.feed(data)
        if self._transport is None or self.stage is Stage.CLOSING:
            return
        self._flush()
        if self._may_read():
            self._resume_reading()
        elif self._unsent or self._reader.pending or tls.pending:
            self._pause_reading()

    def _may_read(self) -> bool:
        return (
            not (self._unsent or self._broken or self._ended)
            and (self._body is not None or not self._handling)
            and self.stage is not Stage.CLOSING
        )

    def _step(self) -> bool:
        """Understand one more thing that was received; whether there was one."""
        if self._body is not None:
            return self._step_body(self._body)
        try:
            head = self._reader.head()
        except BadRequest as error:
            self._refuse(error)
            return True
        if head is None:
            if self._reader.pending and not self._head_begun:
                self._head_begun = True
                self.expires_at = self._service.loop.time() + HEAD_SECONDS
            return False
        self._begin(head)
        return True

    def _begin(self, head: Head) -> None:
        """Hand a request over."""
        self._head = head
        self._head_begun = False
        self._handling = True
        self._body = body = Body(self._continue if head.expects_continue else _nothing)
        self._step_body(body)
        self.expires_at = math.inf
        self._service.table.move(self, Stage.CLIENT_BUSY if self.authenticated else Stage.STRANGER_BUSY)
        request = Request(head.method, head.target, head.headers, body, self._peer, self._client.name)
        self._task = self._service.loop.create_task(self._handle(request))

    def _step_body(self, body: Body) -> bool:
        try:
            content = self._reader.body()
        except (BodyTooLarge, BodyMalformed) as error:
            self._body, self._broken = None, True
            body.fail(error)
            if not self._handling:
                self.close()
            return True
        if content is None:
            return False
        self._body = None
        body.complete(content)
        if not self._handling:
            self.expires_at = self._service.loop.time() + IDLE_SECONDS
        return True

    def _end_input(self) -> None:
        self._ended = True
        self._give_up_body()
        if not self._handling:
            self.close()

    def _give_up_body(self) -> None:
        if self._body is not None:
            body, self._body, self._broken = self._body, None, True
            body.fail(ClientGone())

    def _pause_reading(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # --- Answering

    async def _handle(self, request: Request) -> None:
        try:
            response = await self._service.handler(request)
        except Exception:  # noqa: BLE001 - a handler answers whatever happens; this is a bug in it
            _log.exception("a request could not be answered")
            self.drop()
            return
        self._answer(response)

    def _answer(self, response: Response) -> None:
        self._handling = False
        self.authenticated = self.authenticated or response.authenticated
        head, service = cast(Head, self._head), self._service
        if self._transport is None:
            return
        closes = (
            response.closes
            or head.closes
            or service.draining
            or service.closes_after_answer
            or self._broken
            or self._ended
            or self._client.expires <= time.time()
        )
        now = service.loop.time()
        # A body that is still on its way is awaited for a moment, since the next request comes behind it.
        self.expires_at = now + (IDLE_SECONDS if self._body is None else _LINGER_SECONDS)
        service.table.move(self, Stage.CLIENT if self.authenticated else Stage.STRANGER)
        self._send(response.encode(service.date(), closes=closes, bodiless=head.method == "HEAD"))
        if closes:
            self.close()
        elif self._paused or self._reader.pending or cast(TlsStream, self._tls).pending:
            self._go_on()

    def _refuse(self, error: BadRequest) -> None:
        _log.warning("bad HTTP", extra={"fields": {"peer": self._peer.address, "reason": str(error)}})
        response = self._service.refuse(error)
        self._send(response.encode(self._service.date(), closes=True, bodiless=False))
        self.close()

    def _continue(self) -> None:
        if self._transport is not None and not self._broken:
            self._send(_CONTINUE)

    def _send(self, data: bytes) -> None:
        cast(TlsStream, self._tls).write(data)
        self._flush()

    def _flush(self) -> bool:
        """Send what is to be sent; whether there was anything."""
        tls, transport = self._tls, self._transport
        if tls is None or transport is None or not (data := tls.outgoing()):
            return False
        transport.write(data)
        return True

    def _fail_tls(self, error: ssl.SSLError) -> None:
        self._log_failed_tls(error.reason or str(error))
        if self._tls is not None and self._tls.established:
            self.drop()
        else:
            self.close()  # so that the client gets the alert

    def _log_failed_tls(self, reason: str) -> None:
        _log.info("no TLS connection", extra={"fields": {"reason": reason, "peer": self._peer.address}})


def _nothing() -> None:
    pass

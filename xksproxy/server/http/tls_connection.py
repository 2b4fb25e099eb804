"""The TLS part of a connection of the public listener: connection table, peer, handshake and close."""

import asyncio
import logging
import math
import ssl
from typing import Final, cast

from xksproxy.server.http.connection_table import Stage
from xksproxy.server.http.pacer import Pacer
from xksproxy.server.http.service import Client, ConnectionRefused, HttpService, TlsTerms
from xksproxy.server.http.tls_stream import TlsStream
from xksproxy.server.peer import Peer, PeerRefused

_log: Final = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 2.0
"""The maximum time of a TLS handshake. KMS waits 250 ms for handshake and answer together (R-TIME-1)."""

GRACE_SECONDS: Final = 1.0
"""The time after a handshake in which other connections are closed first, because the first request is expected."""

IDLE_SECONDS: Final = 360.0
"""An idle connection is closed after this time. A network load balancer should forget it first, after 350 s."""

WRITE_SECONDS: Final = 5.0
"""The time within which the client must receive an answer."""

LINGER_SECONDS: Final = 1.0
"""The time in which a client may close after an answer, or send the rest of an unwanted body."""


class TlsConnection(asyncio.BufferedProtocol):
    """Handles TLS. The subclass :class:`~xksproxy.server.http.connection.Connection` handles HTTP."""

    __slots__ = (
        "_before_tls",
        "_client",
        "_ended",
        "_handling",
        "_hello_answered",
        "_paused",
        "_peer",
        "_service",
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
        """The bytes that were received before the peer is known; None afterwards."""
        self._terms: TlsTerms | None = None
        self._tls: TlsStream | None = None
        self._client = Client()
        self._hello_answered = False
        self._handling = False
        """Whether a request is being answered."""
        self._ended = False
        """Whether the client sends no more."""
        self._unsent = False
        """Whether some sent bytes are still in the transport's buffer."""
        self._paused = False
        self._waits_for_turn = False
        self.authenticated = False
        self.stage = Stage.SILENT
        self.expires_at = math.inf
        self.grace_until = math.inf

    def _received(self) -> None:
        """Continue to read, now or when it is this connection's turn."""
        raise NotImplementedError

    def _advance(self) -> None:
        """Continue to read."""
        raise NotImplementedError

    def _end_input(self) -> None:
        """Note that the client sends no more."""
        raise NotImplementedError

    def _give_up_input(self) -> None:
        """Give up the rest of an incomplete body."""
        raise NotImplementedError

    @property
    def _idle(self) -> bool:
        """Whether no request has begun or waits for its answer."""
        raise NotImplementedError

    # --- Called by the transport and the table

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add the connection to the table, or drop it if there is no room."""
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
        """Remove the connection from the table, and fail an incomplete body."""
        self._transport = None
        self._service.table.remove(self)
        self._give_up_input()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """The buffer to read into."""
        return self._service.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        if self._transport is None or self.stage is Stage.CLOSING:
            return
        # A header of the PROXY protocol comes before the first byte of TLS.
        received: bytes | memoryview = memoryview(self._service.buffer)[:nbytes]
        if self._before_tls is not None:
            received = self._after_proxy_header(self._before_tls + received)
            if not received:
                return
        tls = self._tls or self._begin_tls()
        tls.feed(received)
        self._go_on()

    def eof_received(self) -> bool:
        """Note that the client sends no more. Returns whether the connection stays open for an answer."""
        if self._tls is None or not self._tls.established:
            if self.stage is Stage.HANDSHAKE:
                self._log_failed_tls("the client closed the connection during the handshake")
            elif self._before_tls:
                self._service.peers.end_of_input(self._before_tls, self._peer)
            return False
        self._end_input()
        return self.stage is not Stage.CLOSING

    def pause_writing(self) -> None:
        """Stop reading until the client has received what was sent."""
        self._unsent = True
        self.expires_at = min(self.expires_at, self._service.loop.time() + WRITE_SECONDS)

    def resume_writing(self) -> None:
        """Continue, because the client has received what was sent."""
        self._unsent = False
        if self.stage is Stage.CLOSING:
            self.expires_at = self._service.loop.time() + LINGER_SECONDS
        elif self._tls is not None and self._tls.established:
            self.expires_at = math.inf if self._handling else self._service.loop.time() + IDLE_SECONDS
            self._go_on()

    def drop(self) -> None:
        """Close at once, without the close_notify of TLS: the peer may not read it."""
        self._service.table.remove(self)
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Close an idle connection with close_notify, any other at once."""
        if self.stage in (Stage.STRANGER, Stage.CLIENT) and self._idle and not self._unsent:
            self.close()
            return
        if self.stage is Stage.HANDSHAKE:
            self._log_failed_tls(f"the handshake took longer than {HANDSHAKE_SECONDS:.0f} s")
        self.drop()

    def close(self) -> None:
        """Send close_notify, and wait at most 1 s (5 s if bytes are unsent) for the client to close.

        If the socket were closed at once while the client sends, its system could discard the answer (RFC 9112, 9.6).
        """
        transport, tls = self._transport, self._tls
        if transport is None or tls is None:
            self.drop()
            return
        self._service.table.move(self, Stage.CLOSING)
        self.expires_at = self._service.loop.time() + (WRITE_SECONDS if self._unsent else LINGER_SECONDS)
        tls.close()
        self._flush()
        if self._ended:
            transport.close()
            return
        transport.write_eof()
        self._resume_reading()

    def _go_on(self) -> None:
        """Handle received bytes, at once or when it is this connection's turn."""
        if self._waits_for_turn:
            self._pause_reading()
        elif self._hello_answered:
            self._received()
        else:
            self._wait_for_turn(self._service.handshakes)

    def _wait_for_turn(self, pacer: Pacer) -> None:
        self._waits_for_turn = True
        pacer.add(self._take_turn)

    def _take_turn(self) -> None:
        self._waits_for_turn = False
        tls = self._tls
        if self._transport is None or self.stage is Stage.CLOSING or tls is None:
            return
        try:
            if tls.established or self._handshake(tls):
                self._advance()
            else:
                self._resume_reading()
        except ssl.SSLError as error:
            self._fail_tls(error)
        except Exception:  # noqa: BLE001 - the worker must continue
            _log.exception("a connection failed")
            self.drop()

    def _after_proxy_header(self, received: bytes) -> bytes:
        """The bytes after the PROXY protocol header, which comes before TLS; empty until the header is complete."""
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

    def _handshake(self, tls: TlsStream) -> bool:
        """Continue the handshake. Returns whether it is complete and the client may connect."""
        try:
            if not tls.handshake():
                self._hello_answered = self._flush()
                return False
        except ssl.SSLError:
            self._flush()  # the alert
            raise
        try:
            self._client = cast(TlsTerms, self._terms).admit(tls.connection)
        except ConnectionRefused as refused:
            # Nothing is flushed, so that a refused client gets no session ticket.
            if self._has_line("connection refused", reason := str(refused)):
                fields = {"reason": reason, "peer": self._peer.address}
                _log.warning("connection refused", extra={"fields": fields})
            self.drop()
            return False
        self.authenticated = self._client.name is not None
        now = self._service.loop.time()
        self.grace_until, self.expires_at = now + GRACE_SECONDS, now + IDLE_SECONDS
        self._service.table.move(self, Stage.CLIENT if self.authenticated else Stage.STRANGER)
        self._flush()
        return True

    def _pause_reading(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _send(self, data: bytes) -> None:
        cast(TlsStream, self._tls).write(data)
        self._flush()

    def _flush(self) -> bool:
        """Send the outgoing bytes. Returns whether there were any."""
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
        if self._has_line("no TLS connection", reason):
            _log.info("no TLS connection", extra={"fields": {"reason": reason, "peer": self._peer.address}})

    def _has_line(self, message: str, reason: str) -> bool:
        """Whether to log that this connection cannot be served. If not, it is counted."""
        return self._service.log.has_line(message, reason=reason, peer=self._peer.address)

"""One connection of the public listener. It answers each request before it reads the next one."""

import asyncio
import logging
import math
import time
from typing import Final, cast

from xksproxy.server.http.body import Body
from xksproxy.server.http.connection_table import Stage
from xksproxy.server.http.errors import BadRequest, BodyMalformed, BodyTooLarge, ClientGone
from xksproxy.server.http.head import Head
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.http.reader import RequestReader
from xksproxy.server.http.service import HttpService, TlsTerms
from xksproxy.server.http.tls_connection import IDLE_SECONDS, LINGER_SECONDS, TlsConnection
from xksproxy.server.http.tls_stream import TlsStream

_log: Final = logging.getLogger(__name__)

HEAD_SECONDS: Final = 5.0
"""The time within which request line and headers must be complete after their first byte."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(TlsConnection):
    """Reads a request only after the previous one was answered and its answer was sent.

    So a client uses no more memory than one request, one answer, and the bytes received with the request.
    """

    __slots__ = ("_body", "_broken", "_head", "_head_begun", "_reader", "_task")

    def __init__(self, service: HttpService) -> None:
        super().__init__(service)
        self._reader = RequestReader()
        self._task: asyncio.Task[None] | None = None
        self._head: Head | None = None
        """The head of the current or last request."""
        self._head_begun = False
        self._body: Body | None = None
        """The body that is still arriving."""
        self._broken = False
        """Whether the end of the last request's body is unknown, so that no further request can be read."""

    # --- Reading

    def _received(self) -> None:
        if self._head is not None and not (self.authenticated or self._body):
            self._wait_for_turn(self._service.strangers)
        else:
            self._take_turn()

    @property
    def _idle(self) -> bool:
        return not (self._head_begun or self._body)

    def _advance(self) -> None:
        """Read until there are no more bytes, or an answer must be sent first."""
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
        """Parse the next head or body. Returns False if more bytes are needed."""
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
        """Start a task that handles a request, unless the rules for clients have changed since the handshake."""
        if cast(TlsTerms, self._terms).clients != self._service.terms().clients:
            self.drop()
            return
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
        self._give_up_input()
        if not self._handling:
            self.close()

    def _give_up_input(self) -> None:
        if self._body is not None:
            body, self._body, self._broken = self._body, None, True
            body.fail(ClientGone())

    # --- Answering

    async def _handle(self, request: Request) -> None:
        try:
            response = await self._service.handler(request)
        except Exception:  # noqa: BLE001 - a handler must not raise; this is a bug
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
        # Wait a moment for the rest of the body, because the next request follows it.
        self.expires_at = now + (IDLE_SECONDS if self._body is None else LINGER_SECONDS)
        service.table.move(self, Stage.CLIENT if self.authenticated else Stage.STRANGER)
        self._send(response.encode(service.date(), closes=closes, bodiless=head.method == "HEAD"))
        if closes:
            self.close()
        elif self._paused or self._reader.pending:
            self._go_on()

    def _refuse(self, error: BadRequest) -> None:
        if self._has_line("bad HTTP", str(error)):
            _log.warning("bad HTTP", extra={"fields": {"peer": self._peer.address, "reason": str(error)}})
        response = self._service.refuse(error)
        self._send(response.encode(self._service.date(), closes=True, bodiless=False))
        self.close()

    def _continue(self) -> None:
        if self._transport is not None and not self._broken:
            self._send(_CONTINUE)


def _nothing() -> None:
    pass

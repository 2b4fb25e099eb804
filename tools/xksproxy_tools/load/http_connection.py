"""One HTTP/1.1 connection over TLS, one request at a time on it.

The HTTP client of aiohttp would take several times the processor time, and one core could not make the load that is
measured here.
"""

import asyncio
import re
from typing import Any, Final, Protocol

MAXIMUM_HEAD_BYTES: Final = 16 * 1024
MAXIMUM_BODY_BYTES: Final = 1024 * 1024
"""A longer body is not a response of the API."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n")
_CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_CLOSE: Final = re.compile(rb"(?i)\r\nconnection:[ \t]*close[ \t]*\r\n")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n")


class MalformedResponse(Exception):
    """The data is not a valid HTTP response; the text gives the reason."""


class Response:
    """A complete response."""

    __slots__ = ("body", "closes", "status")

    def __init__(self, status: int, body: bytes, *, closes: bool) -> None:
        self.status = status
        self.body = body
        self.closes = closes
        """Whether the server closes the connection after it."""


def parse_response(data: bytes) -> Response | None:
    """Parse a response, which must be all of ``data``; None while it is incomplete.

    Raises:
        MalformedResponse: the response is invalid or too long, or is followed by more data.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAXIMUM_HEAD_BYTES:
            raise MalformedResponse("endless head")
        return None
    head = data[: end + 2]
    status = _STATUS.match(head)
    if status is None:
        raise MalformedResponse("no HTTP/1 status line")
    if length := _LENGTH.search(head):
        whole = end + 4 + int(length[1])
        body = data[end + 4 : whole]
        complete = len(data) >= whole
    elif _CHUNKED.search(head):
        unchunked = _unchunk(data, end + 4)
        complete = unchunked is not None
        body, whole = unchunked or (b"", 0)
    else:
        raise MalformedResponse("no Content-Length")
    if len(data) > MAXIMUM_BODY_BYTES:
        raise MalformedResponse("endless body")
    if not complete:
        return None
    if len(data) > whole:
        raise MalformedResponse("more than one response to a request")
    return Response(int(status[1]), body, closes=_CLOSE.search(head) is not None or head.startswith(b"HTTP/1.0"))


def _unchunk(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The chunked body that begins at ``at``, and its end; None while it is incomplete. Trailers are not supported."""
    parts: list[bytes] = []
    while size := _CHUNK_SIZE.match(data, at):
        start, length = size.end(), int(size[1], 16)
        at = start + length + 2
        if len(data) < at:
            return None
        if data[at - 2 : at] != b"\r\n":
            raise MalformedResponse("a chunk of another length than it says")
        if length == 0:
            return b"".join(parts), at
        parts.append(data[start : start + length])
    return None


class ConnectionOwner(Protocol):
    """Is notified about responses and the loss of a connection."""

    def answered(self, connection: "Connection", response: Response) -> None:
        """The response has arrived."""

    def lost(self, connection: "Connection", reason: str) -> None:
        """The connection was lost, and its request has no response. Called once."""


class Connection(asyncio.Protocol):
    """A connection. :attr:`exchange` belongs to the owner: the request that waits for a response."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self.exchange: Any = None
        self._owner: ConnectionOwner | None = owner
        self._transport: Any = None
        self._received = b""

    @property
    def is_open(self) -> bool:
        """Whether it has neither been lost nor closed."""
        return self._owner is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport
        if self._owner is None:  # closed during the handshake
            self.close()

    def write(self, data: bytes) -> None:
        """Send a request."""
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._owner is None:
            return
        if self._received:
            data = self._received + data
        try:
            response = parse_response(data)
        except MalformedResponse as error:
            self._lose(f"malformed response: {error}")
            return
        if response is None:
            self._received = data
        elif self.exchange is None:
            self._lose("malformed response: a response without a request")
        else:
            self._received = b""
            self._owner.answered(self, response)

    def eof_received(self) -> bool:
        """Called by asyncio."""
        self._lose("connection closed by the proxy")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._lose("connection reset" if exc else "connection closed by the proxy")

    def abort(self, reason: str) -> None:
        """Close the connection immediately, and notify the owner."""
        self._lose(reason)

    def close(self) -> None:
        """Close the connection without notifying the owner."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()

    def _lose(self, reason: str) -> None:
        owner = self._owner
        if owner is not None:
            self.close()
            owner.lost(self, reason)

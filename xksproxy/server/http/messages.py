"""A request, as it was received, and the response to it."""

from http import HTTPStatus
from typing import Final

import msgspec

from xksproxy.server.http.body import Body
from xksproxy.server.peer import Peer

Headers = dict[str, list[str]]
"""Values by lower-case name, in the order received. Bytes that are not UTF-8 are surrogates, to encode them back."""


class Request(msgspec.Struct, frozen=True):
    """A request whose head is complete. Nothing in it is decoded or normalised."""

    method: str
    target: str
    headers: Headers
    body: Body
    """It may be incomplete."""

    peer: Peer
    """The client."""

    client_name: str | None = None
    """The common name of the client's certificate, if it has sent one."""


class Response(msgspec.Struct, frozen=True):
    """A response with a JSON body (R-REQ-1)."""

    status: int
    content: bytes
    closes: bool = False
    """Whether the connection is closed after it."""

    authenticated: bool = False
    """Whether the request had a valid signature. Then its connection no longer counts as a stranger's."""

    def encode(self, date: bytes, *, closes: bool, bodiless: bool) -> bytes:
        """The bytes on the wire. ``date`` is the header line; the answer to a HEAD is ``bodiless``."""
        head = _HEADS.get(self.status) or _head(self.status)
        parts = (head, date, _CLOSE if closes else b"", b"Content-Length: %d\r\n\r\n" % len(self.content))
        return b"".join(parts if bodiless else (*parts, self.content))


_CLOSE: Final = b"Connection: close\r\n"


def _head(status: int) -> bytes:
    # RFC 9110 section 15.5.6 asks for Allow.
    allow = "Allow: POST\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nServer: xksproxy\r\n{allow}"
    ).encode()


_HEADS: Final = {status: _head(status) for status in (200, 400, 401, 403, 404, 405, 429, 500, 501, 503)}

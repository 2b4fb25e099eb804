"""Parses a stream of bytes to requests, one at a time. It does no input or output."""

from xksproxy.server.http.body import ChunkedReader, SizedReader
from xksproxy.server.http.errors import BadRequest
from xksproxy.server.http.head import MAXIMUM_HEAD_BYTES, Head, parse_head, require_possible

_END: bytes = b"\r\n\r\n"


class RequestReader:
    """Call :meth:`head` until it returns one, then :meth:`body` until it returns that, and so on."""

    __slots__ = ("_body", "_received", "_searched")

    def __init__(self) -> None:
        self._received = bytearray()
        self._searched = 0
        """The number of bytes that were searched for the end of a head."""
        self._body: SizedReader | ChunkedReader | None = None

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._received += data

    @property
    def pending(self) -> int:
        """The number of received bytes that are not parsed yet."""
        return len(self._received)

    def head(self) -> Head | None:
        """Return the next head if it is complete; otherwise None.

        Raises:
            BadRequest: the received bytes are not the beginning of a request.
        """
        received, start = self._received, max(0, self._searched - len(_END) + 1)
        end = received.find(_END, start)
        if end < 0:
            require_possible(received, start)
            self._searched = len(received)
            if self._searched >= MAXIMUM_HEAD_BYTES:
                raise BadRequest("a head above 16 KiB")
            return None
        if end > MAXIMUM_HEAD_BYTES - len(_END):
            raise BadRequest("a head above 16 KiB")
        head = parse_head(bytes(received[: end + 2]))
        del received[: end + len(_END)]
        self._searched = 0
        self._body = ChunkedReader() if head.length is None else SizedReader(head.length)
        return head

    def body(self) -> bytes | None:
        """Return the body of the last head if it is complete; otherwise None.

        Raises:
            BodyTooLarge: it is above 64 KiB.
            BodyMalformed: a chunk is framed wrongly.
        """
        if self._body is None:
            raise RuntimeError("body() was called before head() has returned a head")
        content = self._body.take(self._received)
        if content is not None:
            self._body = None
        return content

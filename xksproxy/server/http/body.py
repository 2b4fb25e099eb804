"""The body of a request while it arrives, by its length or in chunks."""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from xksproxy.server.http.errors import BodyMalformed, BodyTooLarge
from xksproxy.server.http.head import FIELD, MAXIMUM_FIELDS, MAXIMUM_HEAD_BYTES
from xksproxy.spec.limits import MAXIMUM_BODY_BYTES

_MAXIMUM_CHUNK_LINE_BYTES: Final = 256
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(FIELD)
_NO_TRAILERS: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"trailer", b"authorization", b"x-amz-date"}
)
"""Fields that must not be trailers, because they frame, route or authenticate a request (RFC 9110, 6.5.1)."""


class Body:
    """The body that a handler reads. Belongs to the event loop."""

    __slots__ = ("_failure", "_on_wait", "_waiter", "content")

    def __init__(self, on_wait: Callable[[], None]) -> None:
        """``on_wait`` is called before the first wait for a body that is not complete."""
        self.content: bytes | None = None
        """The whole body; None until it is complete."""
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_wait = on_wait

    @classmethod
    def of(cls, content: bytes) -> "Body":
        """Make a body that is complete."""
        body = cls(lambda: None)
        body.content = content
        return body

    async def read(self) -> bytes:
        """Wait until the body is complete, and return it.

        Raises:
            BodyTooLarge: it is above 64 KiB.
            BodyMalformed: its chunks are framed wrongly.
            ClientGone: the client closed the connection first.
        """
        if self.content is None and self._failure is None:
            self._on_wait()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failure is not None:
            raise self._failure
        if self.content is None:
            raise RuntimeError("the body is complete, but has no content")
        return self.content

    @property
    def failed(self) -> bool:
        """Whether the body will never be complete."""
        return self._failure is not None

    def complete(self, content: bytes) -> None:
        """Set the content of the complete body."""
        self.content = content
        self._wake()

    def fail(self, failure: Exception) -> None:
        """Note that the body will never be complete."""
        if self.content is None and self._failure is None:
            self._failure = failure
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class SizedReader:
    """Takes a body of known length from the received bytes."""

    def __init__(self, length: int) -> None:
        self._length = length

    def take(self, received: bytearray) -> bytes | None:
        """Return the body when it is complete, and remove it from ``received``; None before.

        Raises:
            BodyTooLarge: its length is above 64 KiB.
        """
        if self._length > MAXIMUM_BODY_BYTES:
            raise BodyTooLarge
        if len(received) < self._length:
            return None
        content = bytes(received[: self._length])
        del received[: self._length]
        return content


class ChunkedReader:
    """Takes a body in chunks from the received bytes (RFC 9112, 7.1). Extensions and trailers are dropped."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._missing: int | None = None
        """The missing bytes of this chunk, including its line end; None between chunks."""
        self._trailers: int | None = None
        """The number of trailers so far; None before the last chunk."""
        self._trailer_bytes = 0

    def take(self, received: bytearray) -> bytes | None:
        """Return the body when it is complete; None before. Parsed bytes are removed from ``received``.

        Raises:
            BodyTooLarge: it is above 64 KiB.
            BodyMalformed: a chunk is framed wrongly.
        """
        while True:
            if self._missing is not None:
                if not self._take_data(received):
                    return None
            elif self._trailers is None:
                if not self._take_size(received):
                    return None
            else:
                line = _take_line(received, MAXIMUM_HEAD_BYTES)
                if line is None:
                    return None
                if not line:
                    return bytes(self._content)
                self._count_trailer(line)

    def _take_data(self, received: bytearray) -> bool:
        missing = self._missing or 0
        if len(received) < missing:
            if missing > 2:  # noqa: PLR2004 - CR LF follow the data
                part = received[: missing - 2]
                self._content += part
                del received[: len(part)]
                self._missing = missing - len(part)
            return False
        if received[missing - 2 : missing] != b"\r\n":
            raise BodyMalformed
        self._content += received[: missing - 2]
        del received[:missing]
        self._missing = None
        return True

    def _take_size(self, received: bytearray) -> bool:
        line = _take_line(received, _MAXIMUM_CHUNK_LINE_BYTES)
        if line is None:
            return False
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise BodyMalformed
        size = int(found[1], 16)
        if len(self._content) + size > MAXIMUM_BODY_BYTES:
            raise BodyTooLarge
        if size:
            self._missing = size + 2
        else:
            self._trailers = 0
        return True

    def _count_trailer(self, line: bytes) -> None:
        self._trailers = (self._trailers or 0) + 1
        self._trailer_bytes += len(line)
        if self._trailers > MAXIMUM_FIELDS or self._trailer_bytes > MAXIMUM_HEAD_BYTES or not _FIELD.fullmatch(line):
            raise BodyMalformed
        if line.partition(b":")[0].lower() in _NO_TRAILERS:
            raise BodyMalformed


def _take_line(received: bytearray, maximum: int) -> bytes | None:
    """Return the next line without its end, and remove it from ``received``; None if it is not complete."""
    end = received.find(b"\r\n")
    if end < 0:
        if len(received) > maximum or b"\n" in received:
            raise BodyMalformed
        return None
    if end > maximum:
        raise BodyMalformed
    line = bytes(received[:end])
    del received[: end + 2]
    return line

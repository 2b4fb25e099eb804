"""An HTTP/1.1 connection over TLS that can send any bytes, and reads responses strictly."""

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

_STATUS_LINE: Final = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2}) ?[\t -~\x80-\xff]*\r\n")
_FIELD_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t -~\x80-\xff]*?)[\t ]*\r\n")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[\t ]*(?:;[\t -~]*)?\r\n")
_MAXIMUM_LINE: Final = 65536
_MAXIMUM_HEADERS: Final = 200
_MAXIMUM_CONTENT: Final = 1 << 20
_SHOWN: Final = 200
_FINAL: Final = 200


class ConnectionEnded(OSError):
    """The proxy closed the connection before a complete response."""


class NoResponse(ConnectionEnded):
    """No byte of a response arrived; the proxy may have closed an idle connection."""


class NotHttp(Exception):
    """The response is not valid HTTP/1.1, or its body is not a JSON object."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response. Header names are in lower case."""

    version: str
    status: int
    headers: tuple[tuple[str, str], ...]
    content: bytes
    milliseconds: float
    """From the sending of the request to the last byte of the response."""

    def header(self, name: str) -> str | None:
        """All values of a header, joined by commas; None if it is missing."""
        values = [value for found, value in self.headers if found == name]
        return ", ".join(values) if values else None

    @property
    def closes(self) -> bool:
        """Whether the proxy closes the connection after this response."""
        options = {option.strip().lower() for option in (self.header("connection") or "").split(",")}
        return "close" in options or (self.version == "HTTP/1.0" and "keep-alive" not in options)

    def json(self) -> dict[str, Any]:
        """The content as a JSON object.

        Raises:
            NotHttp: the content is not a JSON object.
        """
        try:
            body = json.loads(self.content.decode("utf-8"))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise NotHttp(f"status {self.status} with a body that is not a JSON object: {shown(self.content)}")
        return body

    def __str__(self) -> str:
        """Status and error name, or the beginning of another body; never a plaintext."""
        try:
            body = self.json()
        except NotHttp as error:
            return str(error)
        if "errorName" in body:
            return f"status {self.status} {printable(str(body['errorName']))}"
        return f"status {self.status} with the members {printable(', '.join(sorted(body))) or '(none)'}"


def printable(text: str) -> str:
    """The beginning of a text from the proxy, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:_SHOWN])


def shown(content: bytes) -> str:
    """The beginning of a body that is not JSON, in printable form."""
    text = repr(content[:_SHOWN])[1:]
    return f"{text} … of {len(content)} bytes" if len(content) > _SHOWN else text


class HttpConnection:
    """One TLS connection. Its failures are raised as OSError."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        timeout: float,
    ) -> None:
        """Connect and make the TLS handshake. ``timeout`` is in seconds, for each read and write."""
        raw = socket.create_connection(address, timeout=timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = context.wrap_socket(raw, server_hostname=server_name or address[0])
        except BaseException:
            raw.close()
            raise
        self._reader = self.socket.makefile("rb")
        self._sent_at = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sent_at = time.perf_counter()
        self.socket.sendall(data)

    def read(self, method: str = "POST") -> HttpResponse:
        """Read the final response to a request of ``method``; informational ones before it are skipped.

        Raises:
            ConnectionEnded: there is no response, or only a part of it.
            NotHttp: it is not a response of HTTP/1.1.
        """
        while True:
            response = self._read_one(method)
            if response.status >= _FINAL:
                return response

    def exchange(self, data: bytes, method: str = "POST") -> HttpResponse:
        """Send a request and read its response, also if the proxy responds before it has read everything."""
        try:
            self.send(data)
        except TimeoutError:
            raise
        except OSError as error:
            try:
                return self.read(method)
            except OSError:
                raise NoResponse(f"the proxy closed the connection during the request: {error}") from None
        return self.read(method)

    def read_until_closed(self) -> bytes:
        """The data before the proxy closes the connection; a TimeoutError if it does not."""
        rest = b""
        try:
            while chunk := self._reader.read1(_MAXIMUM_LINE):
                rest += chunk
        except TimeoutError:
            raise
        except OSError:
            pass  # reset instead of closed
        return rest

    def _read_one(self, method: str) -> HttpResponse:
        try:
            line = self._line()
        except ConnectionEnded as error:
            raise NoResponse(str(error)) from error
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise NotHttp(f"{shown(line)} in place of a status line of HTTP/1.1")
        headers = tuple(self._headers())
        status = int(match[2])
        content = b"" if method == "HEAD" or status in (204, 304) or status < _FINAL else self._content(headers)
        milliseconds = 1000 * (time.perf_counter() - self._sent_at)
        return HttpResponse(match[1].decode(), status, headers, content, milliseconds)

    def _headers(self) -> Iterator[tuple[str, str]]:
        for _ in range(_MAXIMUM_HEADERS):
            line = self._line()
            if line == b"\r\n":
                return
            match = _FIELD_LINE.fullmatch(line)
            if match is None:
                raise NotHttp(f"{shown(line)} in place of a header line")
            yield match[1].decode().lower(), match[2].decode("latin-1")
        raise NotHttp(f"more than {_MAXIMUM_HEADERS} header lines")

    def _content(self, headers: tuple[tuple[str, str], ...]) -> bytes:
        lengths = {value for name, value in headers if name == "content-length"}
        codings = [value.lower() for name, value in headers if name == "transfer-encoding"]
        if codings:
            if codings != ["chunked"] or lengths:
                raise NotHttp(f"Transfer-Encoding {codings} with Content-Length {sorted(lengths)}")
            return b"".join(self._chunks())
        if not lengths:
            return self.read_until_closed()
        length = lengths.pop()
        if lengths or not re.fullmatch("[0-9]{1,9}", length) or int(length) > _MAXIMUM_CONTENT:
            raise NotHttp(f"Content-Length {length}")
        return self._exactly(int(length))

    def _chunks(self) -> Iterator[bytes]:
        total = 0
        while True:
            match = _CHUNK_LINE.fullmatch(line := self._line())
            size = int(match[1], 16) if match else _MAXIMUM_CONTENT
            total += size
            if total >= _MAXIMUM_CONTENT:
                raise NotHttp(f"{shown(line)} in place of the size of a chunk")
            if not size:
                tuple(self._headers())  # the trailers, and the empty line
                return
            yield self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise NotHttp("a chunk that is longer than its size")

    def _line(self) -> bytes:
        try:
            line = self._reader.readline(_MAXIMUM_LINE)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionEnded(str(error)) from error
        if not line:
            raise ConnectionEnded("the proxy closed the connection without a response")
        return line

    def _exactly(self, length: int) -> bytes:
        content = self._reader.read(length)
        if len(content) != length:
            raise ConnectionEnded(f"the proxy closed the connection after {len(content)} of {length} bytes")
        return content

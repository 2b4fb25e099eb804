"""As much of HTTP/1.1 as the stub needs."""

import json
from dataclasses import dataclass
from typing import Any, BinaryIO

MAXIMUM_BODY = 64 * 1024


class BadHttp(Exception):
    """The request cannot be read; the connection has to end after the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    spelling: tuple[str, ...] = ()
    """The names of the headers as they were written."""

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]

    def header(self, name: str) -> str | None:
        values = self.values(name)
        return values[0] if len(values) == 1 else None

    @property
    def closes(self) -> bool:
        return (self.header("connection") or "").lower() == "close" or self.version != "HTTP/1.1"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    version: str = "HTTP/1.1"

    def encode(self, *, closes: bool) -> bytes:
        headers = [*self.headers, ("Content-Length", str(len(self.body)))]
        if closes:
            headers.append(("Connection", "close"))
        lines = [f"{self.version} {self.status} Whatever", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


def json_response(status: int, message: dict[str, Any]) -> Response:
    body = json.dumps(message, separators=(",", ":")).encode()
    return Response(status, (("Content-Type", "application/json"),), body)


def read_request(reader: BinaryIO) -> Request | None:
    """The next request, or None at the end of the connection."""
    line = reader.readline(8192)
    if not line:
        return None
    parts = line.decode("utf-8", "surrogateescape").rstrip("\r\n").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadHttp(400)
    headers, spelling = [], []
    while (line := reader.readline(65536)) not in (b"\r\n", b"\n"):
        name, colon, value = line.decode("utf-8", "surrogateescape").partition(":")
        if not colon or name != name.strip() or not name:
            raise BadHttp(400)
        headers.append((name.lower(), value.strip()))
        spelling.append(name)
    request = Request(*parts, tuple(headers))
    lengths = request.values("content-length")
    if request.values("transfer-encoding") or len(lengths) > 1 or not all(length.isdecimal() for length in lengths):
        raise BadHttp(400)
    length = int(lengths[0]) if lengths else 0
    if length > MAXIMUM_BODY:
        raise BadHttp(501)
    body = reader.read(length)
    return Request(*parts, tuple(headers), body, tuple(spelling)) if len(body) == length else None

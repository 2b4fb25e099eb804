"""Signed requests in which every part can be changed."""

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from typing import Final, Self

from xksproxy.sigv4.authorization import ALGORITHM, SERVICE, TERMINATOR
from xksproxy.sigv4.canonical import HttpRequest, canonical_request, group_headers
from xksproxy.sigv4.keyring import Credential

SIGNED_BY_KMS: Final = ("host", "x-amz-date")
"""R-AUTH-8."""
_EXACTLY: Final = ("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is sent exactly as it is; nothing is added or checked."""

    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    method: str = "POST"
    version: str = "HTTP/1.1"

    def with_header(self, name: str, value: str) -> Self:
        """A copy with a header replaced or added."""
        found = [position for position, (known, _) in enumerate(self.headers) if known.lower() == name.lower()]
        if not found:
            return replace(self, headers=(*self.headers, (name, value)))
        headers = list(self.headers)
        headers[found[0]] = (name, value)
        return replace(self, headers=tuple(headers))

    def without_header(self, name: str) -> Self:
        """A copy without a header."""
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() != name.lower()))

    def with_body(self, body: bytes) -> Self:
        """A copy with another body and its Content-Length."""
        return replace(self.with_header("Content-Length", str(len(body))), body=body)

    def header(self, name: str) -> str:
        """The value of an existing header."""
        return next(value for known, value in self.headers if known.lower() == name.lower())

    def header_lines(self) -> list[tuple[bytes, bytes]]:
        """Names and values of the headers as they are sent."""
        return [(name.encode(*_EXACTLY), value.encode(*_EXACTLY)) for name, value in self.headers]

    def encode(self) -> bytes:
        """The bytes to send."""
        head = f"{self.method} {self.target} {self.version}".encode(*_EXACTLY)
        lines = [head, *(name + b": " + value for name, value in self.header_lines())]
        return b"\r\n".join((*lines, b"", b"")) + self.body


@dataclass(frozen=True, slots=True)
class Signer:
    """The parameters of a signature. The defaults are correct."""

    credential: Credential
    region: str
    signed_headers: tuple[str, ...] = SIGNED_BY_KMS
    date: str | None = None
    """The date of the credential scope; None means that of X-Amz-Date."""

    service: str = SERVICE
    terminator: str = TERMINATOR

    def sign(self, request: Request, at: float) -> Request:
        """The request with Authorization, and with X-Amz-Date for the Unix time ``at``."""
        dated = request.with_header("X-Amz-Date", timestamp(at))
        return dated.with_header("Authorization", self.authorization(dated))

    def authorization(self, request: Request) -> str:
        """The Authorization header for a request that has an X-Amz-Date."""
        scope = self.scope(request)
        return (
            f"{ALGORITHM} Credential={self.credential.access_key_id}/{'/'.join(scope)},"
            f" SignedHeaders={';'.join(self.signed_headers)}, Signature={self.signature(request)}"
        )

    def scope(self, request: Request) -> tuple[str, str, str, str]:
        """Date, Region, service and terminator."""
        return self.date or request.header("x-amz-date")[:8], self.region, self.service, self.terminator

    def signature(self, request: Request) -> str:
        """Steps 1 to 3 of SigV4, in lower-case hexadecimal."""
        received = HttpRequest(request.method, request.target, group_headers(request.header_lines()), request.body)
        canonical = canonical_request(received, self.signed_headers, hashlib.sha256(request.body).hexdigest())
        digest = hashlib.sha256(canonical.encode(*_EXACTLY)).hexdigest()
        scope = self.scope(request)
        text = "\n".join((ALGORITHM, request.header("x-amz-date"), "/".join(scope), digest))
        secret = b"AWS4" + self.credential.secret_access_key.encode()
        key = reduce(lambda key, part: hmac.digest(key, part.encode(), "sha256"), scope, secret)
        return hmac.digest(key, text.encode(), "sha256").hex()


def timestamp(at: float) -> str:
    """X-Amz-Date of a Unix time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")

"""Canonical request, string to sign and signing key: steps 1 to 3 of SigV4."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from xksproxy.sigv4.authorization import ALGORITHM, SERVICE, TERMINATOR, CredentialScope

_EXACTLY: Final = ("utf-8", "surrogateescape")
_BLANKS: Final = re.compile("[ \t]+")


class HttpRequest(msgspec.Struct, frozen=True):
    """What a signature covers, as received: the path undecoded, no query, header names in lower case.

    A header that came several times has its values in the order they came.
    """

    method: str
    path: str
    headers: Mapping[str, Sequence[str]]
    body: bytes


def group_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Gather header lines by lower-case name, as text that turns back into the same bytes when it is hashed."""
    grouped: dict[str, list[str]] = {}
    for name, value in headers:
        grouped.setdefault(name.lower().decode("utf-8", "surrogateescape"), []).append(
            value.decode("utf-8", "surrogateescape")
        )
    return grouped


def canonical_request(request: HttpRequest, signed_headers: Iterable[str], body_sha256: str) -> str:
    """Step 1. The query is always empty; the path needs no encoding, its characters being unreserved.

    Raises:
        KeyError: a signed header is not in the request.
    """
    names = tuple(signed_headers)
    block = "".join([f"{name}:{_canonical_value(request.headers[name])}\n" for name in names])
    return "\n".join((request.method, request.path, "", block, ";".join(names), body_sha256))


def _canonical_value(values: Sequence[str]) -> str:
    """Outer blanks gone, inner runs of blanks folded to one space, repeated headers joined by commas.

    A blank is a space or a tab, which is the white space that HTTP lets stand in a value (RFC 9110 section 5.5). A
    no-break space is a character like any other.
    """
    return ",".join([_fold(value.strip(" \t")) for value in values])


def _fold(value: str) -> str:
    return _BLANKS.sub(" ", value) if "  " in value or "\t" in value else value


def string_to_sign(timestamp: str, scope: CredentialScope, canonical: str) -> str:
    """Step 2. ``timestamp`` is the X-Amz-Date value."""
    digest = hashlib.sha256(canonical.encode(*_EXACTLY)).hexdigest()
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"


def derive_signing_key(secret_access_key: str, scope: CredentialScope) -> bytes:
    """Step 3, first half: four nested HMACs from the secret to the key of one day and Region."""
    key = b"AWS4" + secret_access_key.encode()
    for part in (scope.date, scope.region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign_string(signing_key: bytes, text: str) -> str:
    """Step 3, second half: the signature in lower-case hexadecimal."""
    # Not hmac.digest: that lets other threads take the interpreter at each call, however short.
    return hmac.new(signing_key, text.encode(), "sha256").hexdigest()

"""Canonical request, string to sign and signing key: steps 1 to 3 of SigV4."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from xksproxy.sigv4.authorization import ALGORITHM, SERVICE, TERMINATOR, CredentialScope

_LOSSLESS: Final = ("utf-8", "surrogateescape")
_SPACES: Final = re.compile("  +")


class HttpRequest(msgspec.Struct, frozen=True):
    """The parts of a request that a signature covers, as received. The path is not decoded, and there is no query.

    Header names are in lower case. Values of a repeated header are in the order received.
    """

    method: str
    path: str
    headers: Mapping[str, Sequence[str]]
    body: bytes


def group_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Group header lines by lower-case name, as text that encodes to the same bytes again for hashing."""
    grouped: dict[str, list[str]] = {}
    for name, value in headers:
        grouped.setdefault(name.lower().decode("utf-8", "surrogateescape"), []).append(
            value.decode("utf-8", "surrogateescape")
        )
    return grouped


def canonical_request(request: HttpRequest, signed_headers: Iterable[str], body_sha256: str) -> str:
    """Step 1. The query is always empty. The path needs no encoding, because all its characters are unreserved.

    Raises:
        KeyError: a signed header is not in the request.
    """
    names = tuple(signed_headers)
    block = "".join([f"{name}:{_canonical_value(request.headers[name])}\n" for name in names])
    return "\n".join((request.method, request.path, "", block, ";".join(names), body_sha256))


def _canonical_value(values: Sequence[str]) -> str:
    """Trim values, replace runs of spaces by one space, and join the values of repeated headers by commas.

    Spaces and tabs are trimmed (RFC 9110, section 5.5). Only U+0020 is folded; a no-break space stays.
    """
    return ",".join([_SPACES.sub(" ", value.strip(" \t")) for value in values])


def string_to_sign(timestamp: str, scope: CredentialScope, canonical: str) -> str:
    """Step 2. ``timestamp`` is the value of X-Amz-Date."""
    digest = hashlib.sha256(canonical.encode(*_LOSSLESS)).hexdigest()
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"


def derive_signing_key(secret_access_key: str, scope: CredentialScope) -> bytes:
    """Step 3, first part: derive the key of one day and Region from the secret, by four nested HMACs."""
    key = b"AWS4" + secret_access_key.encode()
    for part in (scope.date, scope.region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign_string(signing_key: bytes, text: str) -> str:
    """Step 3, second part: the signature in lower-case hexadecimal."""
    # hmac.digest would release the interpreter lock at each call, even for short data.
    return hmac.new(signing_key, text.encode(), "sha256").hexdigest()

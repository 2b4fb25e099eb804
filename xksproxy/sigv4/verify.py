"""Verification of a signed request against the credentials of a key store (requirements R-AUTH-*)."""

import hashlib
import hmac
import re
from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec

from xksproxy.sigv4.authorization import Authorization, MalformedAuthorization, parse_authorization
from xksproxy.sigv4.canonical import HttpRequest, canonical_request, sign_string, string_to_sign
from xksproxy.sigv4.keyring import Keyring, recorded_access_key_id
from xksproxy.spec.errors import AuthenticationFailedException
from xksproxy.spec.limits import CLOCK_SKEW_SECONDS

_TIMESTAMP: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_HOST_NAMES: Final = frozenset({"host", ":authority"})


class Identity(msgspec.Struct, frozen=True):
    """The access key id that signed a request, and the AWS Region in its scope."""

    access_key_id: str
    region: str
    clock_offset: float = 0.0
    """Seconds by which this machine's clock is ahead of the time of the signature."""


class SignedAtAnotherTime(AuthenticationFailedException):
    """The signature is correct, but its time is too far from this machine's clock (R-AUTH-10).

    The answer is the same as for every other cause.
    """

    def __init__(self, access_key_id: str, clock_offset: float) -> None:
        self.clock_offset = clock_offset
        super().__init__(
            f"the request was signed {clock_offset:+.0f} s before the proxy's clock, by access key id {access_key_id}"
        )

    @property
    def name(self) -> str:
        """The ``errorName``, the same for every cause."""
        return AuthenticationFailedException.__name__


def verify(request: HttpRequest, keyring: Keyring, now: float) -> Identity:
    """Authenticate a request. ``now`` is the Unix time in seconds.

    The signed headers are those that the Authorization header lists, in that order (R-AUTH-8). They must include host
    and x-amz-date. The body is always hashed; x-amz-content-sha256 must match if it is there.

    The time is checked last. So a wrong clock can be distinguished from requests without a valid signature.

    Raises:
        SignedAtAnotherTime: only the time of the signature is wrong.
        AuthenticationFailedException: with the same message for every cause; ``detail`` has the cause for the log.
    """
    try:
        authorization = parse_authorization(_single(request, "authorization"))
    except MalformedAuthorization as error:
        raise AuthenticationFailedException(str(error)) from None
    timestamp = _single(request, "x-amz-date")
    clock_offset = now - _signing_time(timestamp, authorization)
    _check_signed_headers(request, authorization)
    body_sha256 = hashlib.sha256(request.body).hexdigest()
    _check_body_hash(request, body_sha256)
    canonical = canonical_request(request, authorization.signed_headers, body_sha256)
    key, known = keyring.signing_key(authorization.access_key_id, authorization.scope)
    expected = sign_string(key, string_to_sign(timestamp, authorization.scope, canonical))
    if not hmac.compare_digest(expected, authorization.signature) or not known:
        cause = "the signature does not match, by access key id" if known else "unknown access key id"
        raise AuthenticationFailedException(f"{cause} {recorded_access_key_id(authorization.access_key_id)}")
    if abs(clock_offset) > CLOCK_SKEW_SECONDS:
        raise SignedAtAnotherTime(authorization.access_key_id, clock_offset)
    keyring.keep(authorization.scope)
    return Identity(authorization.access_key_id, authorization.scope.region, clock_offset)


def _single(request: HttpRequest, name: str) -> str:
    values = request.headers.get(name, ())
    if len(values) != 1:
        raise AuthenticationFailedException(f"expected one {name} header, got {len(values)}")
    return values[0].strip(" \t")


def _signing_time(timestamp: str, authorization: Authorization) -> float:
    signed_at = _parse_time(timestamp)
    if timestamp[:8] != authorization.scope.date:
        raise AuthenticationFailedException("the date of the credential scope is not that of x-amz-date")
    if signed_at is None:
        raise AuthenticationFailedException("x-amz-date is not a valid date and time")
    return signed_at


@lru_cache(maxsize=64)  # many requests are of the same second
def _parse_time(timestamp: str) -> float | None:
    """Unix time in seconds; None if the date or the time does not exist."""
    if not _TIMESTAMP.fullmatch(timestamp):
        raise AuthenticationFailedException("x-amz-date is not of the form YYYYMMDDTHHMMSSZ")
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def _check_signed_headers(request: HttpRequest, authorization: Authorization) -> None:
    signed = authorization.signed_headers
    if not _covers_host_and_date(signed):
        raise AuthenticationFailedException("host and x-amz-date must be signed")
    if missing := [name for name in signed if name not in request.headers]:
        raise AuthenticationFailedException(f"signed headers missing from the request: {', '.join(missing)[:200]}")


@lru_cache(maxsize=64)  # KMS signs the same headers all day
def _covers_host_and_date(signed: tuple[str, ...]) -> bool:
    return "x-amz-date" in signed and not _HOST_NAMES.isdisjoint(signed)


def _check_body_hash(request: HttpRequest, body_sha256: str) -> None:
    for claimed in request.headers.get("x-amz-content-sha256", ()):
        if claimed.strip(" \t") != body_sha256:
            raise AuthenticationFailedException("x-amz-content-sha256 is not the hash of the body")

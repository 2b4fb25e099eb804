"""Verification of SigV4, written a second time, with each of its rules as a switch."""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from stub_proxy.http import Request
from stub_proxy.world import Store
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.errors import AuthenticationFailedException

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/, ]+)/(?P<date>[0-9]{8})/(?P<region>[^/, ]+)/(?P<service>[^/, ]+)"
    r"/(?P<terminator>[^/, ]+), ?SignedHeaders=(?P<names>[^, ]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class SignatureRules:
    """What is verified; a False is a defect."""

    header: bool = True
    signature: bool = True
    known_id: bool = True
    service: bool = True
    terminator: bool = True
    scope_date: bool = True
    time: bool = True
    skew_behind: float = 300.0
    skew_ahead: float = 300.0
    required: tuple[str, ...] = ("host", "x-amz-date")
    fixed_headers: tuple[str, ...] | None = None
    """The signed headers, if they are not taken from the header."""

    remembers: tuple[str, ...] | None = None
    """The parts of a request that, beside its signature, tell it from one that was verified before."""

    seen: set[tuple[object, ...]] = field(default_factory=set)
    first_credential_only: bool = False
    any_store: bool = False
    telling: bool = False
    """Whether the message tells the cause."""


class _Refused(Exception):
    """Why."""


def authenticate(request: Request, store: Store, rules: SignatureRules, now: float, others: tuple[Store, ...]) -> None:
    """Raise AuthenticationFailedException unless a request is signed as the rules ask."""
    try:
        if rules.header or request.header("authorization") is not None:
            _verify(request, _parse(request, rules), rules, now, _credential_of(store, rules, others))
    except _Refused as refused:
        error = AuthenticationFailedException(str(refused))
        if rules.telling:
            error.message = str(refused)
        raise error from None


def _require(holds: object, cause: str) -> None:
    if not holds:
        raise _Refused(cause)


def _parse(request: Request, rules: SignatureRules) -> re.Match[str]:
    match = _HEADER.fullmatch(request.header("authorization") or "")
    if match is None:
        raise _Refused("no SigV4 header")
    names = match["names"].split(";")
    _require(set(rules.required) <= set(names) and all(request.values(name) for name in names), "signed headers")
    _require(not rules.service or match["service"] == "kms-xks-proxy", "service")
    _require(not rules.terminator or match["terminator"] == "aws4_request", "terminator")
    return match


def _credential_of(
    store: Store, rules: SignatureRules, others: tuple[Store, ...]
) -> Callable[[str], Credential | None]:
    known = [store.credentials[0]] if rules.first_credential_only else [*store.credentials]
    if rules.any_store:
        known += [credential for other in others for credential in other.credentials]
    return {credential.access_key_id: credential for credential in known}.get


def _verify(
    request: Request,
    match: re.Match[str],
    rules: SignatureRules,
    now: float,
    credential_of: Callable[[str], Credential | None],
) -> None:
    date = request.header("x-amz-date") or ""
    _require(not rules.scope_date or match["date"] == date[:8], "date")
    late = now - _time(date)
    _require(not rules.time or -rules.skew_ahead <= late <= rules.skew_behind, "stale")
    credential = credential_of(match["id"])
    if credential is None:
        _require(not rules.known_id, "unknown id")
        return
    remembered = (match["signature"], *(getattr(request, part) for part in rules.remembers or ()))
    if not rules.signature or (rules.remembers is not None and remembered in rules.seen):
        return
    names = rules.fixed_headers or tuple(match["names"].split(";"))
    expected = _expected(request, match, names, credential.secret_access_key)
    _require(hmac.compare_digest(expected, match["signature"]), "signature")
    rules.seen.add(remembered)


def _time(date: str) -> float:
    try:
        return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _Refused("no time") from None


def _expected(request: Request, match: re.Match[str], names: tuple[str, ...], secret: str) -> str:
    scope = (match["date"], match["region"], match["service"], match["terminator"])
    block = "".join(f"{name}:{','.join(' '.join(v.split()) for v in request.values(name))}\n" for name in names)
    digest = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join((request.method, request.target, "", block, ";".join(names), digest))
    hashed = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", request.values("x-amz-date")[0], "/".join(scope), hashed))
    key = b"AWS4" + secret.encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()

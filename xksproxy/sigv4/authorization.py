"""Parsing of the Authorization header."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TERMINATOR: Final = "aws4_request"
SERVICE: Final = "kms-xks-proxy"

_ELEMENTS: Final = frozenset({"Credential", "SignedHeaders", "Signature"})
_ACCESS_KEY_ID: Final = re.compile(r"[A-Za-z0-9]{1,128}")
_DATE: Final = re.compile(r"[0-9]{8}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_ANY_SIGNATURE: Final = "0" * 64
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+|:authority")


class MalformedAuthorization(Exception):
    """The header is not a SigV4 Authorization header. The message says which part is wrong."""


class CredentialScope(NamedTuple):
    """The date (``YYYYMMDD``) and AWS Region of a signature. The service is always ``kms-xks-proxy``."""

    date: str
    region: str

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{SERVICE}/{TERMINATOR}"


class Authorization(msgspec.Struct, frozen=True):
    """The parts of a SigV4 Authorization header, each with valid syntax."""

    access_key_id: str
    scope: CredentialScope
    signed_headers: tuple[str, ...]
    signature: str


def parse_authorization(header: str) -> Authorization:
    """Parse ``AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…``.

    Raises:
        MalformedAuthorization: the header does not have this form.
    """
    before, name, signature = header.strip().rpartition("Signature=")
    if not name or not _SIGNATURE.fullmatch(signature):
        return _parse(header)
    # KMS sends the same text before the signature all day. Its parsed form does not depend on the signature.
    claim = _parse_before_signature(before)
    return Authorization(claim.access_key_id, claim.scope, claim.signed_headers, signature)


@lru_cache(maxsize=64)
def _parse_before_signature(before: str) -> Authorization:
    return _parse(f"{before}Signature={_ANY_SIGNATURE}")


def _parse(header: str) -> Authorization:
    algorithm, _, rest = header.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise MalformedAuthorization(f"the algorithm is not {ALGORITHM}")
    elements = _elements(rest)
    access_key_id, _, scope_text = elements["Credential"].partition("/")
    scope = _parse_scope(scope_text)
    if not _ACCESS_KEY_ID.fullmatch(access_key_id):
        raise MalformedAuthorization("the access key id has characters other than letters and digits")
    signature = elements["Signature"]
    if not _SIGNATURE.fullmatch(signature):
        raise MalformedAuthorization("the signature is not 64 lower-case hexadecimal digits")
    return Authorization(access_key_id, scope, _parse_signed_headers(elements["SignedHeaders"]), signature)


def _elements(text: str) -> dict[str, str]:
    parts = text.split(",")
    elements = {}
    for part in parts:
        name, _, value = part.strip().partition("=")
        elements[name] = value
    if len(parts) != len(elements) or elements.keys() != _ELEMENTS:
        raise MalformedAuthorization("expected Credential, SignedHeaders and Signature, each once")
    return elements


def _parse_scope(text: str) -> CredentialScope:
    match text.split("/"):
        case [date, region, service, terminator]:
            pass
        case _:
            raise MalformedAuthorization("expected Credential=<access key id>/<date>/<region>/<service>/aws4_request")
    if not _DATE.fullmatch(date) or not _REGION.fullmatch(region):
        raise MalformedAuthorization("the credential scope has no valid date and region")
    if service != SERVICE or terminator != TERMINATOR:
        raise MalformedAuthorization(f"the credential scope does not end in {SERVICE}/{TERMINATOR}")
    return CredentialScope(date, region)


def _parse_signed_headers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(";"))
    if len(set(names)) != len(names) or not all(_HEADER_NAME.fullmatch(name) for name in names):
        raise MalformedAuthorization("SignedHeaders is not a list of distinct lower-case header names")
    return names

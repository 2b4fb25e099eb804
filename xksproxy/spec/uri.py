"""URIs of the XKS proxy API: ``[/<prefix>]/kms/xks/v1/...`` (requirements R-URI-*)."""

import re
from enum import Enum
from functools import lru_cache
from typing import Final

import msgspec

from xksproxy.spec.errors import InvalidUriPathException
from xksproxy.spec.limits import MAXIMUM_KEY_ID_CHARACTERS, MAXIMUM_URI_PATH_CHARACTERS

BASE_PATH: Final = "/kms/xks/v1"
"""The path that follows the prefix of every key store."""


class Operation(Enum):
    """The four APIs; the value is the last segment of their path."""

    GET_HEALTH_STATUS = "health"
    GET_KEY_METADATA = "metadata"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"

    # Enum's own hashes the name in Python, at each look-up in a table.
    __hash__ = object.__hash__


class ApiPath(msgspec.Struct, frozen=True):
    """The parts of a request path. ``key_id`` is as in the path and not checked; it is empty for health."""

    prefix: str
    operation: Operation
    key_id: str


_KEYS_PATH: Final = f"{BASE_PATH}/keys"
_OPERATIONS: Final = {operation.value: operation for operation in Operation}
_KEY_SEGMENT: Final = re.compile(r"[^/%?#]+")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)*")
_KEY_ID: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAXIMUM_KEY_ID_CHARACTERS}}}")
_REMEMBERED_CHARACTERS: Final = 512
"""Longer targets are not remembered: strangers can send any number of them."""

_DOT_SEGMENTS: Final = frozenset({".", ".."})


def parse_path(target: str) -> ApiPath:
    """Parse a request target.

    No legal URI contains a percent sign, a dot segment, an empty segment or a query (R-URI-1). So nothing is decoded or
    normalised here: a path that two components could read differently is refused.

    Raises:
        InvalidUriPathException: the target is not one of the four API paths (R-URI-11).
    """
    return _parse_and_remember(target) if len(target) <= _REMEMBERED_CHARACTERS else _parse(target)


def _parse(target: str) -> ApiPath:
    base, _, last_segment = target.rpartition("/")
    operation = _OPERATIONS.get(last_segment)
    if operation is Operation.GET_HEALTH_STATUS:
        fixed_path, key_id, is_legal = BASE_PATH, "", True
    else:
        base, _, key_id = base.rpartition("/")
        fixed_path, is_legal = _KEYS_PATH, _KEY_SEGMENT.fullmatch(key_id) is not None and key_id not in _DOT_SEGMENTS
    prefix = base.removesuffix(fixed_path)
    if operation is None or not is_legal or not base.endswith(fixed_path) or not _PREFIX.fullmatch(prefix):
        raise InvalidUriPathException(
            "The URI path does not belong to this proxy: expected [/<prefix>]/kms/xks/v1/health or"
            " [/<prefix>]/kms/xks/v1/keys/<key id>/metadata, encrypt or decrypt,"
            " without query string or percent-encoding",
        )
    return ApiPath(prefix, operation, key_id)


@lru_cache(maxsize=1024)
def _parse_and_remember(target: str) -> ApiPath:
    return _parse(target)


def compose_path(prefix: str, operation: Operation, key_id: str = "") -> str:
    """The path of an operation; the inverse of :func:`parse_path`."""
    if operation is Operation.GET_HEALTH_STATUS:
        return f"{prefix}{BASE_PATH}/health"
    return f"{prefix}{BASE_PATH}/keys/{key_id}/{operation.value}"


def is_key_id(text: str) -> bool:
    """Whether ``text`` is a legal external key id, and not a dot segment that HTTP software removes (R-URI-6)."""
    return _KEY_ID.fullmatch(text) is not None and text not in _DOT_SEGMENTS


def prefix_problem(prefix: str) -> str | None:
    """The error in a path prefix of a key store, or None (R-URI-2)."""
    if not _PREFIX.fullmatch(prefix):
        return "expected segments of a-z A-Z 0-9 - _, each after a /, and no / at the end, such as /payments/eu"
    if len(prefix) + len(BASE_PATH) > MAXIMUM_URI_PATH_CHARACTERS:
        return f"with {BASE_PATH} it may have at most {MAXIMUM_URI_PATH_CHARACTERS} characters"
    return None

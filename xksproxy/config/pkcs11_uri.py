"""PKCS#11 URIs (RFC 7512), as far as they name a token or a key. What is not understood is refused, never ignored."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

SCHEME: Final = "pkcs11:"

_ATTRIBUTE: Final = re.compile(
    r"(?P<name>[A-Za-z0-9_-]+)=(?P<value>(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*)"
)
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "library-description": "module names the module",
    "library-manufacturer": "module names the module",
    "library-version": "module names the module",
    "slot-description": "a token is found wherever it is; use its serial",
    "slot-manufacturer": "a token is found wherever it is; use its serial",
}


class UriError(ValueError):
    """The text is not a PKCS#11 URI, or it has an attribute that does not belong here. The text says what to do."""


def parse_uri(text: str, allowed: frozenset[str], elsewhere: Mapping[str, str]) -> dict[str, bytes]:
    """The path attributes of a PKCS#11 URI with their decoded values.

    ``allowed`` has the attributes that may occur, ``elsewhere`` others with what to write instead of them.

    Raises:
        UriError: it is none, or has another attribute, a query, or an attribute twice.
    """
    if not text.startswith(SCHEME):
        raise UriError(f"expected a PKCS#11 URI that starts with {SCHEME}")
    path, question_mark, _ = text.removeprefix(SCHEME).partition("?")
    if question_mark:
        raise UriError("the part from ? on is not supported: module, pin and the rest have settings of their own")
    values: dict[str, bytes] = {}
    for attribute in path.split(";") if path else ():
        match = _ATTRIBUTE.fullmatch(attribute)
        if match is None:
            raise UriError(f"{attribute or 'an empty attribute'} is not of the form name=value of RFC 7512")
        name = match["name"]
        if name not in allowed:
            reason = elsewhere.get(name) or _UNSUPPORTED.get(name) or f"expected {', '.join(sorted(allowed))}"
            raise UriError(f"{name} is not supported here: {reason}")
        if name in values:
            raise UriError(f"{name} occurs twice")
        values[name] = unquote_to_bytes(match["value"])
    return values


def text_value(name: str, value: bytes) -> str:
    """The value of a text attribute.

    Raises:
        UriError: it is empty or not UTF-8.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise UriError(f"{name} is not UTF-8") from None
    if not text:
        raise UriError(f"{name} is empty")
    return text

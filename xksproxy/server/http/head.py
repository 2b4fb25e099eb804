"""The head of a request, by one grammar, which is stricter than RFC 9112 where two parsers could differ."""

import re
from typing import Final

import msgspec

from xksproxy.server.http.errors import BadRequest

MAXIMUM_HEAD_BYTES: Final = 16 * 1024
"""Request line and header lines together."""

MAXIMUM_FIELDS: Final = 64
"""Header lines of a request. KMS sends fewer than ten."""

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_LINE: Final = rb"(" + _TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.1"
FIELD: Final = _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+"
"""A header line without its end. No folding, no blank before the colon, no control character but the tab."""

_HEAD: Final = re.compile(_LINE + rb"((?:\r\n" + FIELD + rb")*+)\r\n")
_OTHER_VERSION: Final = re.compile(rb"[^ \r\n]+ [^ \r\n]+ HTTP/[0-9.]+\r\n")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_NEVER_LEGAL: Final = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]|(?<!\r)\n|\r(?!\n|\Z)")


class Head(msgspec.Struct, frozen=True):
    """Request line and header lines, and their meaning for the body and the connection."""

    method: str
    target: str
    headers: dict[str, list[str]]
    length: int | None
    """Bytes of the body; None if it comes in chunks."""

    expects_continue: bool
    closes: bool
    """Whether the client asks to close the connection after the answer."""


def parse_head(raw: bytes) -> Head:
    """Parse a head, up to and including the line end of its last line.

    Header values lose the blanks and tabs around them (RFC 9112 section 5.1) and are not changed otherwise.

    Raises:
        BadRequest: it is not of this grammar, or could be understood in more than one way.
    """
    found = _HEAD.fullmatch(raw)
    if found is None:
        raise BadRequest(_problem(raw))
    method, target, fields = found.groups()
    headers: dict[str, list[str]] = {}
    lines = fields.decode("utf-8", "surrogateescape").split("\r\n")
    if len(lines) > MAXIMUM_FIELDS + 1:
        raise BadRequest(f"more than {MAXIMUM_FIELDS} header lines")
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        if name in headers:
            headers[name].append(value.strip(" \t"))
        else:
            headers[name] = [value.strip(" \t")]
    if len(headers.get("host", ())) != 1:
        raise BadRequest("expected one Host header")
    if "upgrade" in headers:
        raise BadRequest("an Upgrade header; this server supports only HTTP/1.1")
    return Head(
        method.decode(),
        target.decode(),
        headers,
        _body_length(headers),
        "expect" in headers and headers["expect"][-1].lower() == "100-continue",
        "connection" in headers and _asks_to_close(headers["connection"]),
    )


def require_possible(received: bytearray, start: int) -> None:
    """Require that the received bytes can be the beginning of a head, so that others are refused at once.

    Only the bytes from ``start`` on are examined.

    Raises:
        BadRequest: there is a byte that cannot be in a head.
    """
    if _NEVER_LEGAL.search(received, start):
        raise BadRequest(_problem(bytes(received)))


def _body_length(headers: dict[str, list[str]]) -> int | None:
    """The length of the body by RFC 9112, section 6.3, without optional tolerance; None if it comes in chunks."""
    lengths, codings = headers.get("content-length"), headers.get("transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise BadRequest("Content-Length together with Transfer-Encoding")
        if codings != ["chunked"]:
            raise BadRequest("a Transfer-Encoding other than chunked")
        return None
    if lengths is None:
        return 0
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadRequest("expected one Content-Length of decimal digits")
    return int(lengths[0])


def _asks_to_close(values: list[str]) -> bool:
    return any(option.strip(" \t").lower() == "close" for value in values for option in value.split(","))


def _problem(raw: bytes) -> str:
    """What is wrong with a head that was refused."""
    if b"\x00" in raw:
        return "a NUL byte"
    if re.search(rb"(?<!\r)\n|\r(?!\n|\Z)", raw):
        return "a line that does not end with CR LF"
    if not re.match(_LINE + rb"\r\n", raw):
        return "not HTTP/1.1" if _OTHER_VERSION.match(raw) else "a malformed request line"
    if re.search(rb"\r\n[ \t]", raw):
        return "a folded header line"
    return "a malformed header line"

"""The PROXY protocol, version 2: the header in which a load balancer names the client of a connection.

Source: "The PROXY protocol, Versions 1 & 2" of HAProxy, section 2.2, and AWS's description of the field that a network
load balancer adds for connections through a VPC endpoint. This module parses bytes and does no input or output.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""The first bytes of every header. TLS and HTTP never begin with them."""

MAXIMUM_HEADER_BYTES: Final = 4096
"""A longer header is malformed; the header of a network load balancer has about 100 bytes."""

_FIXED_BYTES: Final = 16
_VERSION: Final = 2
_LOCAL: Final = 0
_PROXY: Final = 1
_STREAM: Final = 1
_ADDRESS_BYTES: Final = {0: 0, 1: 12, 2: 36, 3: 216}
"""By address family: AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX."""

_INET: Final = 1
_INET6: Final = 2
_UNSPECIFIED: Final = 0
_FIELD_HEAD_BYTES: Final = 3
_CRC32C: Final = 0x03
_CRC32C_BYTES: Final = 4
_AWS: Final = 0xEA
_AWS_VPC_ENDPOINT_ID: Final = b"\x01"
_ENDPOINT_ID: Final = re.compile(rb"[A-Za-z0-9-]{1,64}")
_VERSION_1: Final = b"PROXY "


class MalformedHeader(Exception):
    """The bytes are not a valid header of version 2. The text names the problem."""


class MissingHeader(MalformedHeader):
    """The bytes do not begin with the signature of a header."""


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The bytes are the beginning of a header."""

    total: int
    """Minimum length of the header, including the bytes that are there. It is never longer than the header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header."""

    length: int
    """Length in bytes. The bytes after it belong to the connection."""

    local: bool
    """Whether the connection is the load balancer's own, for example a health check (command LOCAL)."""

    client: str | None = None
    """The client's IP address, or None if the header has none. An IPv4-mapped IPv6 address is given as IPv4."""

    client_port: int | None = None
    vpc_endpoint_id: str | None = None
    """The id of the VPC endpoint through which the client connected, if AWS's load balancer added it."""


def parse_header(data: bytes) -> ProxyHeader | NeedMore:
    """Parse the header at the beginning of a connection. ``data`` may have more bytes after it.

    The rest of a header with the command LOCAL is ignored, as the protocol requires. A CRC32C is checked if present.

    Raises:
        MissingHeader: there is no header.
        MalformedHeader: the header violates the protocol.
    """
    _require_signature(data)
    if len(data) < _FIXED_BYTES:
        return NeedMore(_FIXED_BYTES)
    version, command = data[12] >> 4, data[12] & 0x0F
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise MalformedHeader(f"version and command are 0x{data[12]:02x}, expected 0x20 or 0x21")
    length = _FIXED_BYTES + int.from_bytes(data[14:16])
    if length > MAXIMUM_HEADER_BYTES:
        raise MalformedHeader(f"it has {length} bytes; the maximum is {MAXIMUM_HEADER_BYTES}")
    if len(data) < length:
        return NeedMore(length)
    if command == _LOCAL:
        return ProxyHeader(length, local=True)
    return _parse_proxied(data[:length])


def _require_signature(data: bytes) -> None:
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return
    if data[: len(_VERSION_1)] == _VERSION_1[: len(data)]:
        raise MalformedHeader("it has version 1; this proxy supports only version 2")
    raise MissingHeader("the connection does not begin with the signature of version 2")


def _parse_proxied(header: bytes) -> ProxyHeader:
    family, transport = header[13] >> 4, header[13] & 0x0F
    size = _ADDRESS_BYTES.get(family)
    if size is None or transport != (_UNSPECIFIED if family == _UNSPECIFIED else _STREAM):
        raise MalformedHeader(
            f"address family and transport are 0x{header[13]:02x}, expected those of a TCP connection"
        )
    begin = _FIXED_BYTES + size
    if len(header) < begin:
        raise MalformedHeader("it is too short for its addresses")
    client, port = _client(family, header[_FIXED_BYTES:begin])
    endpoint_ids = []
    checksums = 0
    for kind, start, end in _fields(header, begin):
        value = header[start:end]
        if kind == _CRC32C:
            checksums += 1
            _check_checksum(header, start, end)
        elif kind == _AWS and value[:1] == _AWS_VPC_ENDPOINT_ID:
            endpoint_ids.append(_endpoint_id(value[1:]))
    if checksums > 1 or len(endpoint_ids) > 1:
        raise MalformedHeader("a field that is allowed once is there twice")
    return ProxyHeader(len(header), False, client, port, endpoint_ids[0] if endpoint_ids else None)


def _client(family: int, addresses: bytes) -> tuple[str | None, int | None]:
    """The client's address and port: source address, destination address, source port, destination port."""
    if family == _INET:
        return str(IPv4Address(addresses[:4])), int.from_bytes(addresses[8:10])
    if family == _INET6:
        address = IPv6Address(addresses[:16])
        return str(address.ipv4_mapped or address), int.from_bytes(addresses[32:34])
    return None, None


def _fields(header: bytes, begin: int) -> Iterator[tuple[int, int, int]]:
    """The type of each field after the addresses, with the start and the end of its value."""
    while begin < len(header):
        start = begin + _FIELD_HEAD_BYTES
        end = start + int.from_bytes(header[begin + 1 : start])
        if start > len(header) or end > len(header):
            raise MalformedHeader("a field is longer than the header")
        yield header[begin], start, end
        begin = end


def _check_checksum(header: bytes, start: int, end: int) -> None:
    """Check the CRC32C. It is calculated over the whole header, with zeros in place of the CRC32C itself."""
    if end - start != _CRC32C_BYTES:
        raise MalformedHeader(f"its CRC32C has {end - start} bytes, expected {_CRC32C_BYTES}")
    if crc32c(header[:start] + bytes(_CRC32C_BYTES) + header[end:]) != int.from_bytes(header[start:end]):
        raise MalformedHeader("its CRC32C is wrong")


def _endpoint_id(value: bytes) -> str:
    if not _ENDPOINT_ID.fullmatch(value):
        raise MalformedHeader("its VPC endpoint id is not 1 to 64 letters, digits and hyphens")
    return value.decode("ascii")


def _table() -> Iterator[int]:
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        yield remainder


_CRC32C_TABLE: Final = tuple(_table())


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of RFC 3720, appendix B.4."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = remainder >> 8 ^ _CRC32C_TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF

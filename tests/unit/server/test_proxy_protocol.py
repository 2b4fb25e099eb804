"""The PROXY protocol, version 2: what names the client, what asks for more bytes, and what is refused."""

import ipaddress
import struct
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.server.proxy_protocol import (
    MAXIMUM_HEADER_BYTES,
    SIGNATURE,
    MalformedHeader,
    NeedMore,
    ProxyHeader,
    crc32c,
    parse_header,
)

LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX, UNSPECIFIED = 0x11, 0x21, 0x31, 0x00
ENDPOINT = "vpce-08d2bf15fac5001c9"


def header(command: int, kind: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([command, kind]) + struct.pack(">H", len(rest)) + rest


def field(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def addresses(client: str = "192.0.2.7", port: int = 51442) -> bytes:
    source = ipaddress.ip_address(client).packed
    return source + bytes(len(source)) + struct.pack(">HH", port, 443)


def with_checksum(command: int, kind: int, addresses: bytes, fields: bytes) -> bytes:
    """A header with a CRC32C as its first field."""
    zeroed = header(command, kind, addresses + field(3, bytes(4)) + fields)
    at = 16 + len(addresses) + 3
    return zeroed[:at] + struct.pack(">I", crc32c(zeroed)) + zeroed[at + 4 :]


GOLDEN = bytes.fromhex(
    "0d0a0d0a000d0a515549540a21110054ac1f0771ac1f0a1fc8f20050030004e8d6892dea001701"
    "767063652d30386432626631356661633530303163390400240000000000000000000000000000000000000000000000000000000000000000"
    "00000000"
)
"""Sent by a network load balancer of AWS: addresses, CRC32C, VPC endpoint id, padding."""


def test_a_header_of_an_nlb_names_client_and_vpc_endpoint() -> None:
    assert parse_header(GOLDEN) == ProxyHeader(len(GOLDEN), False, "172.31.7.113", 51442, ENDPOINT)


@pytest.mark.parametrize("bit", [bit for bit in range(16 * 8, len(GOLDEN) * 8) if bit // 8 != 28])
def test_no_bit_behind_the_fixed_part_can_change(bit: int) -> None:
    """Except in byte 28, the type of the checksum's own field: without it there is no checksum."""
    changed = bytearray(GOLDEN)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedHeader):
        parse_header(bytes(changed))


def test_crc32c_is_that_of_rfc_3720() -> None:
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize(
    ("kind", "client", "told"),
    [
        (TCP4, "192.0.2.7", "192.0.2.7"),
        (TCP6, "2001:db8::7", "2001:db8::7"),
        (TCP6, "::ffff:192.0.2.7", "192.0.2.7"),
    ],
)
def test_the_client_s_address_is_the_source(kind: int, client: str, told: str) -> None:
    data = header(PROXY, kind, addresses(client))

    assert parse_header(data + b"\x16\x03\x01") == ProxyHeader(len(data), False, told, 51442)


@pytest.mark.parametrize(("kind", "rest"), [(UNSPECIFIED, b""), (UNIX, bytes(216))])
def test_a_header_without_an_ip_address_names_no_client(kind: int, rest: bytes) -> None:
    data = header(PROXY, kind, rest + field(0xEA, b"\x01" + ENDPOINT.encode()))

    assert parse_header(data) == ProxyHeader(len(data), False, None, None, ENDPOINT)


@pytest.mark.parametrize("kind", [UNSPECIFIED, TCP4, 0xFF])
@given(rest=st.binary(max_size=60))
def test_of_a_local_header_nothing_but_its_length_is_read(kind: int, rest: bytes) -> None:
    data = header(LOCAL, kind, rest)

    assert parse_header(data) == ProxyHeader(len(data), local=True)


@pytest.mark.parametrize(
    "fields",
    [
        field(0x04, b"padding"),
        field(0x02, b"xks.example.com") + field(0x20, bytes(5)),
        field(0xEA, b"\x02" + ENDPOINT.encode()),
        field(0xEA, b""),
        field(0xEE, b"\x01" + ENDPOINT.encode()),
    ],
)
def test_other_fields_are_passed_over(fields: bytes) -> None:
    found = parse_header(header(PROXY, TCP4, addresses() + fields))

    assert isinstance(found, ProxyHeader)
    assert found.client == "192.0.2.7"
    assert found.vpc_endpoint_id is None


_ENDPOINT_FIELD = field(0xEA, b"\x01" + ENDPOINT.encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01", "signature"),
        (b"GET / HTTP/1.1\r\n", "signature"),
        (b"\r\n\r\nGET", "signature"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n", "version 1"),
        (header(0x11, TCP4, addresses()), "0x11"),
        (header(0x31, TCP4, addresses()), "0x31"),
        (header(0x22, TCP4, addresses()), "0x22"),
        (header(PROXY, 0x12, addresses()), "0x12"),
        (header(PROXY, 0x10, addresses()), "0x10"),
        (header(PROXY, 0x01, b""), "0x01"),
        (header(PROXY, 0x41, addresses()), "0x41"),
        (header(PROXY, TCP4, addresses()[:-1]), "too short"),
        (header(PROXY, TCP6, addresses()), "too short"),
        (header(PROXY, UNIX, bytes(215)), "too short"),
        (header(PROXY, TCP4, addresses() + b"\x04"), "longer than the header"),
        (header(PROXY, TCP4, addresses() + b"\x04\x00"), "longer than the header"),
        (header(PROXY, TCP4, addresses() + b"\x04\x00\x01"), "longer than the header"),
        (header(PROXY, TCP4, addresses() + field(3, bytes(4))), "CRC32C is wrong"),
        (header(PROXY, TCP4, addresses() + field(3, bytes(5))), "5 bytes"),
        (header(PROXY, TCP4, addresses() + _ENDPOINT_FIELD * 2), "twice"),
        (header(PROXY, TCP4, addresses() + field(0xEA, b"\x01")), "VPC endpoint id"),
        (header(PROXY, TCP4, addresses() + field(0xEA, b"\x01vpce-1\n")), "VPC endpoint id"),
        (header(PROXY, TCP4, addresses() + field(0xEA, b"\x01vpce-\xff")), "VPC endpoint id"),
        (header(PROXY, TCP4, addresses() + field(0xEA, b"\x01" + b"a" * 65)), "VPC endpoint id"),
        (SIGNATURE + b"\x21\x11\xff\xff", "maximum is 4096"),
        (SIGNATURE + b"\x20\x00" + struct.pack(">H", MAXIMUM_HEADER_BYTES - 15), "maximum is 4096"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedHeader, match=reason):
        parse_header(data)


def test_a_header_may_be_as_long_as_the_bound() -> None:
    rest = addresses() + field(4, bytes(MAXIMUM_HEADER_BYTES - 16 - 12 - 3))

    found = parse_header(header(PROXY, TCP4, rest))

    assert isinstance(found, ProxyHeader)
    assert found.length == MAXIMUM_HEADER_BYTES


CLIENTS = st.ip_addresses(v=4) | st.ip_addresses(v=6)
FIELDS = st.lists(
    st.builds(field, st.integers(0, 255).filter(lambda kind: kind not in (0x03, 0xEA)), st.binary(max_size=20)),
    max_size=4,
).map(b"".join)


@given(CLIENTS, st.integers(0, 65535), FIELDS, st.tuples(st.booleans(), st.booleans()), st.binary(max_size=20))
def test_what_was_sent_is_what_is_read_and_every_beginning_asks_for_no_more_than_the_header(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    fields: bytes,
    choices: tuple[bool, bool],
    after: bytes,
) -> None:
    named, checked = choices
    kind = TCP4 if client.version == 4 else TCP6
    fields += _ENDPOINT_FIELD if named else b""
    place = addresses(str(client), port)
    data = with_checksum(PROXY, kind, place, fields) if checked else header(PROXY, kind, place + fields)

    mapped = client.ipv4_mapped if isinstance(client, ipaddress.IPv6Address) else None
    expected = ProxyHeader(len(data), False, str(mapped or client), port, ENDPOINT if named else None)
    assert parse_header(data + after) == expected
    for length in range(len(data)):
        more = parse_header(data[:length])
        assert isinstance(more, NeedMore)
        assert length < more.total <= len(data)


@given(st.binary(max_size=120) | st.binary(max_size=120).map(lambda rest: SIGNATURE + rest))
@example(b"")
def test_any_bytes_are_a_header_a_beginning_or_malformed(data: bytes) -> None:
    with suppress(MalformedHeader):
        match parse_header(data):
            case NeedMore(total):
                assert len(data) < total <= MAXIMUM_HEADER_BYTES
            case ProxyHeader() as found:
                assert 16 <= found.length <= len(data)

"""The peer of a connection, and when a connection is refused."""

import logging
import struct

import pytest

from xksproxy.config.model import ProxyProtocol
from xksproxy.server.peer import Cause, Peer, PeerReader, PeerRefused
from xksproxy.server.proxy_protocol import SIGNATURE

BALANCER = ("10.0.1.77", 50000)
STRANGER = ("192.0.2.1", 50000)
ON = ProxyProtocol(from_=("10.0.0.0/8",))
FIELD = b"\xea\x00\x07\x01vpce-1"
HEADER = SIGNATURE + b"\x21\x11" + struct.pack(">H", 12 + len(FIELD)) + b"\xc6\x33\x64\x07" + bytes(8) + FIELD
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(30)


class Case:
    """A connection to a listener, and what was counted of it."""

    def __init__(self, settings: ProxyProtocol | None, *, required: bool = True) -> None:
        self.counted: list[str] = []
        self.peer_reader = PeerReader(settings, self.counted.append, required=required)

    def read(self, *sent: bytes, address: tuple[str, ...] = BALANCER) -> tuple[Peer, bytes]:
        """The peer, and the bytes that follow the header. ``sent`` arrives in pieces."""
        received = b""
        for number, piece in enumerate(sent):
            received += piece
            if (found := self.peer_reader.determine(received, Peer.of(address))) is not None:
                return found[0], received[found[1] :] + b"".join(sent[number + 1 :])
        raise EOFError


def addressed(host: str) -> tuple[str, ...]:
    return (host, "0")


def test_a_header_of_a_listed_address_makes_the_client_the_peer_and_leaves_what_follows_unread() -> None:
    assert Case(ON).read(HEADER + HELLO) == (Peer("198.51.100.7", "vpce-1"), HELLO)


def test_a_header_may_come_in_pieces() -> None:
    assert Case(ON).read(*(HEADER[at : at + 1] for at in range(len(HEADER))), HELLO)[0].address == "198.51.100.7"


def test_a_local_header_is_the_load_balancer_s_own() -> None:
    assert Case(ON).read(LOCAL + HELLO) == (Peer("10.0.1.77"), HELLO)


@pytest.mark.parametrize("address", ["::ffff:10.0.1.77", "10.255.255.255"])
def test_the_load_balancer_is_known_in_either_form_of_its_address(address: str) -> None:
    assert Case(ON).read(HEADER + HELLO, address=addressed(address))[0] == Peer("198.51.100.7", "vpce-1")


@pytest.mark.parametrize("sent", [HEADER + HELLO, HELLO, LOCAL])
def test_an_address_that_is_not_listed_is_refused_whatever_it_sends(sent: bytes) -> None:
    case = Case(ON)

    with pytest.raises(PeerRefused):
        case.read(sent, address=STRANGER)

    assert case.counted == [Cause.UNLISTED]


@pytest.mark.parametrize("sent", [HELLO, b"POST / HTTP/1.1\r\n", b"x", b"\r\n\r\nx"])
def test_a_missing_header_is_refused_and_not_guessed(sent: bytes) -> None:
    case = Case(ON)

    with pytest.raises(PeerRefused):
        case.read(sent.ljust(16, b"\0"))

    assert case.counted == [Cause.MISSING]


@pytest.mark.parametrize(
    "sent",
    [
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
        SIGNATURE + b"\x21\x11\xff\xff",
        SIGNATURE + b"\x21\x00\x00\x00",
        SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
        b"PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n",
    ],
    ids=["version", "short", "long", "unspecified", "unix", "version 1"],
)
def test_a_malformed_header_or_one_without_a_client_is_refused(sent: bytes) -> None:
    case = Case(ON)

    with pytest.raises(PeerRefused):
        case.read(sent)

    assert case.counted == [Cause.MALFORMED]


def test_a_header_that_ends_early_is_counted_and_a_connection_without_a_byte_is_not() -> None:
    case = Case(ON)

    for received in (HEADER[:-1], b""):
        with pytest.raises(EOFError):
            case.read(received)
        case.peer_reader.end_of_input(received, Peer.of(BALANCER))

    assert case.counted == [Cause.MALFORMED]


def test_without_the_setting_the_first_bytes_of_a_signature_are_not_passed_on_yet() -> None:
    case = Case(None)

    with pytest.raises(EOFError):
        case.read(SIGNATURE[:-1])
    with pytest.raises(PeerRefused):
        case.read(*(SIGNATURE[at : at + 1] for at in range(len(SIGNATURE))))
    assert case.read(SIGNATURE[:4], b"GET") == (Peer("10.0.1.77"), SIGNATURE[:4] + b"GET")


@pytest.mark.parametrize("address", [BALANCER, STRANGER])
def test_without_the_setting_the_peer_is_the_other_end_and_nothing_is_read(address: tuple[str, ...]) -> None:
    assert Case(None).read(HELLO, address=address) == (Peer(address[0]), HELLO)


@pytest.mark.parametrize("sent", [HEADER, LOCAL])
def test_without_the_setting_a_header_is_refused_by_name_with_what_to_do(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(None)

    with caplog.at_level(logging.WARNING), pytest.raises(PeerRefused):
        case.read(sent)

    assert case.counted == [Cause.UNEXPECTED]
    fields = caplog.records[0].__dict__["fields"]
    assert "PROXY protocol header" in fields["reason"]
    assert "proxy_protocol_v2.enabled" in fields["what_to_do"]
    assert fields["peer"] == "10.0.1.77"


def test_each_refusal_is_counted_and_few_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(ON)

    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            with pytest.raises(PeerRefused):
                case.read(HELLO)
            with pytest.raises(PeerRefused):
                case.read(HELLO, address=STRANGER)

    assert len(case.counted) == 40
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("address", "sent", "peer", "left"),
    [
        (BALANCER, LOCAL + b"GET /readyz", "10.0.1.77", b"GET /readyz"),
        (BALANCER, HEADER + b"GET /readyz", "198.51.100.7", b"GET /readyz"),
        (BALANCER, b"GET /readyz", "10.0.1.77", b"GET /readyz"),
        (STRANGER, b"GET /readyz", "192.0.2.1", b"GET /readyz"),
        (STRANGER, HEADER, "192.0.2.1", HEADER),
    ],
)
def test_a_listener_for_probes_takes_a_header_and_does_without(
    address: tuple[str, ...], sent: bytes, peer: str, left: bytes
) -> None:
    found, unread = Case(ON, required=False).read(sent, address=address)

    assert (found.address, unread) == (peer, left)

"""Behind a load balancer that sends the PROXY protocol, version 2: who the peer is, and who is refused."""

import http.client
import json
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from server_support import (
    SOCKET_SECONDS,
    OwnProxy,
    Wire,
    ask_admin,
    assert_serving,
    encrypt_body,
    key_path,
    request,
    signed,
    signed_post,
)
from support import Proxy, eventually, free_port, lines_with

pytestmark = pytest.mark.slow

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_CLIENT = "198.51.100.7"
_ENDPOINT = "vpce-08d2bf15fac5001c9"
_LOCAL = _SIGNATURE + b"\x20\x00\x00\x00"
_ON = 'proxy_protocol = { from = ["127.0.0.0/24"] }'


def header(endpoint: str = _ENDPOINT) -> bytes:
    """The header of a network load balancer for a client that came through a VPC endpoint."""
    value = b"\x01" + endpoint.encode()
    field = struct.pack(">BH", 0xEA, len(value)) + value
    rest = socket.inet_aton(_CLIENT) + bytes(4) + struct.pack(">HH", 51442, 443) + field
    return _SIGNATURE + b"\x21\x11" + struct.pack(">H", len(rest)) + rest


def refusals(proxy: Proxy) -> dict[str, float]:
    """The refusals of all workers by cause."""
    found = {}
    for line in ask_admin(proxy, "/metrics").content.decode().splitlines():
        if line.startswith("xksproxy_proxy_protocol_refusals_total{"):
            found[line.partition('cause="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
    return found


def last_peers(proxy: Proxy) -> list[str]:
    """Those of the recent refusals."""
    return [row["last_peer"] for row in json.loads(ask_admin(proxy, "/status").content)["refusals"]]


def is_refused(proxy: Proxy, before: bytes = b"", source: str = "127.0.0.1") -> bool:
    """Whether the connection ends without an answer to a ClientHello that follows ``before``."""
    outgoing = ssl.MemoryBIO()
    client = proxy.context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(("127.0.0.1", proxy.port), SOCKET_SECONDS, (source, 0)) as connection:
        connection.sendall(before + outgoing.read())
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


def test_the_client_of_the_header_is_the_peer_and_its_vpc_endpoint_is_recorded(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server=_ON)
    path = key_path("encrypt", "no-such-key")

    with Wire(proxy, before=header()) as wire:
        assert wire.ask(signed_post(proxy)).status == 200
        assert wire.ask(signed_post(proxy)).status == 200  # and of each request of the connection
        body = encrypt_body(b"x")
        assert wire.ask(request("POST", path, signed(proxy, path, body), body)).status == 404
        assert wire.ask(b"nonsense\r\n\r\n").status == 400
    with Wire(proxy, before=_LOCAL) as wire:
        assert wire.ask(signed_post(proxy)).status == 200

    about = (f'peer="{_CLIENT}"', f'vpc_endpoint_id="{_ENDPOINT}"')
    assert (
        len(eventually(lambda: lines_with(proxy.log, " request ", *about)[2:] and lines_with(proxy.log, *about))) == 3
    )
    (own,) = eventually(lambda: lines_with(proxy.log, " request ", 'peer="127.0.0.1"'))
    assert "vpc_endpoint_id" not in own
    assert eventually(lambda: lines_with(proxy.log, "bad HTTP", f'peer="{_CLIENT}"'))
    eventually(lambda: last_peers(proxy), [_CLIENT])
    assert refusals(proxy) == {}


def test_who_is_not_the_load_balancer_or_sends_no_good_header_is_closed_and_counted(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server=_ON)

    assert is_refused(proxy)
    assert is_refused(proxy, before=header()[:-1] + b"\n")
    assert is_refused(proxy, before=header(), source="127.0.1.1")
    assert is_refused(proxy, source="127.0.1.1")

    eventually(lambda: refusals(proxy), {"missing": 1.0, "malformed": 1.0, "unlisted": 2.0})
    with Wire(proxy, before=header()) as wire:
        assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.parametrize("before", [header(), _LOCAL], ids=["proxy", "local"])
def test_a_header_that_is_not_expected_is_named_in_the_log_with_what_to_change(
    own_proxy: OwnProxy, before: bytes
) -> None:
    """An NLB with the PROXY protocol switched on by mistake."""
    proxy = own_proxy.start(server="workers = 1")

    assert is_refused(proxy, before=before)
    assert is_refused(proxy, before=before)

    eventually(lambda: refusals(proxy), {"unexpected": 2.0})
    (line,) = eventually(lambda: lines_with(proxy.log, "connection refused by PROXY protocol"))
    for part in ("[server] proxy_protocol is off", "proxy_protocol_v2.enabled", 'peer="127.0.0.1"'):
        assert part in line
    assert_serving(proxy)


def test_policies_can_ask_for_the_vpc_endpoint(own_proxy: OwnProxy, tmp_path: Path) -> None:
    (tmp_path / "p.cedar").write_text(
        "permit (principal, action, resource)"
        f' when {{ context has vpcEndpointId && context.vpcEndpointId == "{_ENDPOINT}" }};'
    )
    prefix = 'uri_path_prefix = "/dev"'
    proxy = own_proxy.start(
        server=_ON, edit=lambda text: text.replace(prefix, f'{prefix}\npolicies = ["{tmp_path / "p.cedar"}"]')
    )
    path, body = key_path("encrypt"), encrypt_body(b"x")

    def encrypt(before: bytes) -> int:
        with Wire(proxy, before=before) as wire:
            return wire.ask(request("POST", path, signed(proxy, path, body), body)).status

    assert [encrypt(before) for before in (header(), header("vpce-2"), _LOCAL)] == [200, 403, 403]


@pytest.mark.parametrize("before", [b"", _LOCAL, header()], ids=["none", "local", "proxy"])
def test_the_health_listener_answers_probes_with_and_without_a_header(own_proxy: OwnProxy, before: bytes) -> None:
    port = free_port()
    add_health: Callable[[str], str] = lambda text: f'{text}\n[health]\nlisten = "127.0.0.1:{port}"\n'  # noqa: E731
    own_proxy.start(server=_ON, edit=add_health)

    with socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS) as connection:
        connection.sendall(before + b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()

    assert answer.status == 200

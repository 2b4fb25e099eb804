"""Networks in CIDR notation: which addresses lie in them, and which are too wide."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.config.networks import Networks, network_findings

PRIVATE = Networks.of(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize("address", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3", "fd12::1"])
def test_an_address_within_is_in(address: str) -> None:
    assert address in PRIVATE


@pytest.mark.parametrize("address", ["9.255.255.255", "11.0.0.0", "::ffff:11.0.0.0", "::10.0.0.1", "fe80::1"])
def test_an_address_outside_is_not(address: str) -> None:
    assert address not in PRIVATE


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_it_is_the_prefix_that_decides(first: object, second: object, bits: int) -> None:
    network = ip_network(f"{first}/{bits}", strict=False)

    assert (str(second) in Networks.of([str(network)])) == (ip_address(str(second)) in network)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "x", ""])
def test_what_is_no_network_is_left_to_the_check(text: str) -> None:
    assert list(network_findings("server.proxy_protocol.from", [text])) == []


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0"])
def test_a_network_of_every_address_is_warned_of(text: str) -> None:
    (finding,) = network_findings("server.proxy_protocol.from", ["10.0.0.0/8", text])

    assert not finding.serious
    assert finding.text.startswith(f"server.proxy_protocol.from[1]: {text} contains every address")

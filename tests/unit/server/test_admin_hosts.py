"""By which Host header fields the admin listener is read: no web page's own name is among them."""

import socket

import pytest

from xksproxy.config.model import Admin
from xksproxy.server.admin_hosts import AdminHosts

HOSTS = AdminHosts(["proxy-1.example.com", "Metrics.Example.com."])


@pytest.mark.parametrize("port", ["", ":", ":9464", ":1"])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[2001:db8::a]",
        "[::ffff:10.1.2.3]",
        "[fe80::1%eth0]",
        "localhost",
        "localhost.",
        "proxy-1.example.com",
        "PROXY-1.example.com.",
        "metrics.example.com",
    ],
)
def test_addresses_localhost_and_listed_names_are_answered_with_and_without_a_port(host: str, port: str) -> None:
    assert HOSTS.accepts([host + port])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "proxy-1.example.com.evil.example",
        "example.com",
        "a.localhost",
        "127.1",
        "::1",
        "[127.0.0.1]",
        "[localhost]",
        "[::1",
        "[::1]x",
        "127.0.0.1:80:80",
        "127.0.0.1:http",
        "user@127.0.0.1",
        "127.0.0.1,evil.example",
        "evil.example\n127.0.0.1",
        "127.0.0.1\n",
        "",
        "[]",
    ],
)
def test_any_other_host_is_refused(host: str) -> None:
    assert not HOSTS.accepts([host])


def test_a_request_without_a_host_or_with_several_is_refused() -> None:
    assert not HOSTS.accepts([])
    assert not HOSTS.accepts(["127.0.0.1", "127.0.0.1"])


def test_the_machine_s_name_and_that_of_listen_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Proxy-2.internal.example")
    hosts = AdminHosts.of(Admin(listen="admin.internal:9464", hosts=("a.example",)))

    for name in ("proxy-2.internal.example:9464", "proxy-2", "admin.internal", "a.example", "127.0.0.1", "localhost"):
        assert hosts.accepts([name])
    assert not hosts.accepts(["internal.example"])
    assert not AdminHosts.of(Admin()).accepts(["a.example"])
    assert not AdminHosts.of(Admin(listen="off")).accepts([""])

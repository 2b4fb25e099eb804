"""Addresses to listen on: against each other, and by a trial."""

import socket
from collections.abc import Iterator

import pytest

from xksproxy.config import listener_checks
from xksproxy.config.listener_checks import Listener, listener_problems, trial_findings


def _problems(*addresses: str) -> list[str]:
    names = ("server.listen", "health.listen", "admin.listen")
    return list(listener_problems([Listener(at, address) for at, address in zip(names, addresses, strict=False)]))


@pytest.mark.parametrize(
    "addresses",
    [
        ("0.0.0.0:443", "0.0.0.0:8080", "127.0.0.1:9464"),
        ("127.0.0.1:443", "127.0.0.2:443"),
        ("127.0.0.1:443", "[::1]:443"),
        ("[::]:443", "[::]:444"),
        ("0.0.0.0:443", "[::1]:443"),
    ],
)
def test_listeners_apart_are_accepted(addresses: tuple[str, ...]) -> None:
    assert _problems(*addresses) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("127.0.0.1:443", "127.0.0.1:443"),
        ("0.0.0.0:443", "127.0.0.1:443"),
        ("127.0.0.1:443", "0.0.0.0:443"),
        ("0.0.0.0:443", "[::]:443"),
        ("[::]:443", "127.0.0.1:443"),
        ("[::1]:443", "[0:0:0:0:0:0:0:1]:443"),
        ("localhost:443", "127.0.0.1:443"),
        ("127.0.0.1:443", "[::ffff:127.0.0.1]:443"),
        ("[::ffff:0.0.0.0]:443", "127.0.0.1:443"),
    ],
)
def test_two_listeners_at_one_address_are_refused(first: str, second: str) -> None:
    (problem,) = _problems(first, second)

    assert problem.startswith(f"health.listen: {second} is also an address of server.listen, {first}")


def test_of_three_listeners_each_pair_is_compared() -> None:
    assert [problem.partition(":")[0] for problem in _problems("0.0.0.0:1", "127.0.0.1:1", "127.0.0.1:1")] == [
        "health.listen",
        "admin.listen",
        "admin.listen",
    ]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("*:443", "write 0.0.0.0:443, or [::]:443"),
        ("no-such-host.invalid:443", "the name no-such-host.invalid does not resolve"),
        ("a..b:443", "does not resolve"),
        (f"{'a' * 300}:443", "does not resolve"),
        ("http://0.0.0.0:443", 'write "0.0.0.0:443"'),
        ("127.0.0.1:443/", 'write "127.0.0.1:443"'),
        (" 127.0.0.1:443", 'write "127.0.0.1:443"'),
        ("127.0.0.1:0", "with a port from 1 to 65535"),
        ("127.0.0.1:65536", "with a port from 1 to 65535"),
        ("[::ffff]]:443", "expected address:port"),
        ("[1:2]:443", "does not resolve"),
        ("224.0.0.1:443", "224.0.0.1 is a multicast address"),
        ("[ff02::1]:443", "is a multicast address"),
        ("255.255.255.255:443", "is a reserved address"),
        ("[fe80::1]:443", "is a link-local address, whose zone cannot be written here"),
        ("[::ffff:224.0.0.1]:443", "is a multicast address"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(address: str, reason: str) -> None:
    (problem,) = _problems(address)

    assert problem.startswith("server.listen: ")
    assert reason in problem


def test_a_name_server_that_does_not_answer_does_not_hold_up_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    release, answers = socket.socketpair()
    monkeypatch.setattr(listener_checks, "_RESOLVE_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.recv(1) and [])
    try:
        (problem,) = _problems("some-host:443")
    finally:
        release.close()
        answers.close()

    assert "does not resolve" in problem


@pytest.fixture
def taken() -> Iterator[str]:
    """The address of a socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_in_use_is_a_problem_for_a_service_that_starts(taken: str) -> None:
    listeners = [Listener("server.listen", taken)]

    (finding,) = trial_findings(listeners, starting=True)

    assert finding.serious
    assert finding.text.startswith(f"server.listen: cannot listen on {taken}: another process listens there")


def test_an_address_in_use_is_a_warning_for_a_command_unless_the_service_runs(taken: str) -> None:
    listeners = [Listener("server.listen", taken)]

    (finding,) = trial_findings(listeners, starting=False)

    assert not finding.serious
    assert "another process listens there" in finding.text
    assert list(trial_findings(listeners, starting=False, running=True)) == []


@pytest.mark.parametrize("address", ["192.0.2.1:8443", "[2001:db8::1]:8443"])
@pytest.mark.parametrize("starting", [True, False])
def test_an_address_of_another_machine_is_a_problem(address: str, starting: bool) -> None:
    (finding,) = trial_findings([Listener("server.listen", address)], starting=starting)

    assert finding.serious
    assert (
        finding.text.endswith("no network interface of this machine has this address")
        or "family not supported" in finding.text.lower()
    )


@pytest.mark.parametrize("starting", [True, False])
def test_a_missing_right_is_a_problem_for_a_service_that_starts_and_a_warning_for_a_command(
    monkeypatch: pytest.MonkeyPatch, starting: bool
) -> None:
    # Root may listen everywhere, and so may a container.
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(listener_checks, "_bind", refuse)

    (finding,) = trial_findings([Listener("server.listen", "0.0.0.0:443")], starting=starting)

    assert finding.serious is starting
    assert "CAP_NET_BIND_SERVICE" in finding.text


def test_a_free_address_is_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

    for _ in range(2):
        assert list(trial_findings([Listener("server.listen", address)], starting=True)) == []


@pytest.mark.parametrize(
    ("at", "hint"), [("health.listen", "; leave it out for no such listener"), ("server.listen", "")]
)
def test_a_listener_that_is_off_by_being_left_out_is_explained(at: str, hint: str) -> None:
    (problem,) = listener_problems([Listener(at, "off")])

    assert problem.endswith(f"got off{hint}")

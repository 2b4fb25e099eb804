"""Connections: how long, how many, and what becomes of them when the proxy stops or reloads."""

import asyncio
import os
import random
import select
import shutil
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from fault_support import FaultyHsm
from server_support import (
    HEALTH,
    HEALTH_BODY,
    ClosedByProxy,
    OwnProxy,
    Wire,
    assert_error,
    assert_serving,
    connections,
    encrypt_body,
    key_path,
    on,
    request,
    settled_sockets,
    signed,
    signed_post,
    sockets,
    stop,
    wait_for_every_worker,
    wait_until_sockets_are_closed,
    workers,
)
from support import PATIENCE_SECONDS, UNHURRIED_MS, Proxy, eventually, lines_with, metrics_text, remains
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.credentials import save_credential
from xksproxy.sigv4.keyring import generate_credential

HEAD, BODY = slice(None, -len(HEALTH_BODY)), slice(-len(HEALTH_BODY), None)
EXPECT = "100-continue"


def only_worker(proxy: Proxy) -> int:
    """The process id of the one worker, once it has served."""
    (pid,) = wait_for_every_worker(proxy)
    assert_serving(proxy)  # and so it has opened what it opens with its first request
    return pid


def test_new_connections_go_to_the_worker_with_fewer(proxy: Proxy) -> None:
    before = {pid: settled_sockets(pid) for pid in wait_for_every_worker(proxy)}
    with connections(proxy, 40, used=True):
        added = {pid: settled_sockets(pid) - count for pid, count in before.items()}
    assert len(added) == 2
    assert min(added.values()) >= 10, added


def begin(wire: Wire, proxy: Proxy, path: str = HEALTH) -> None:
    """Send the head of a request and see that the proxy has begun to handle it and awaits the body."""
    data = request("POST", path, {**signed(proxy, path, HEALTH_BODY), "Expect": EXPECT})
    assert wire.ask(data).status == 100


def status(wire: Wire) -> int | None:
    """The status of the next answer, or None where the connection has been closed."""
    try:
        return wire.reply().status
    except ClosedByProxy:
        return None


def is_closed(wire: Wire, seconds: float = 0.1) -> bool:
    """Whether the proxy has closed a connection on which nothing is to be read, waiting a little for it."""
    wire.socket.settimeout(seconds)
    try:
        assert wire.socket.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        pass  # reset instead of closed
    return True


def reset(wire: Wire) -> None:
    """End a connection as a crashed peer does."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


# --- Slow clients


@pytest.mark.slow
def test_a_body_that_stays_away_is_answered_all_the_same(punctual: Proxy) -> None:
    with Wire(punctual) as wire:
        wire.send(signed_post(punctual)[:-1])

        assert_error(wire.reply(), 400, "ValidationException")
        wire.wait_until_closed()


@pytest.mark.slow
def test_a_body_that_trickles_does_not_extend_the_deadline(punctual: Proxy) -> None:
    with Wire(punctual) as wire:
        assert wire.ask(signed_post(punctual)).status == 200  # and so the session tickets are read
        body = HEALTH_BODY.ljust(20_000)
        wire.send(request("POST", HEALTH, signed(punctual, HEALTH, body)))

        sent = 0
        while not select.select([wire.socket], [], [], 0.02)[0]:
            wire.send_what_is_taken(body[sent : sent + 1])
            sent += 1
            assert sent < 1000

        assert_error(wire.reply(), 400, "ValidationException")


@pytest.mark.slow
def test_a_chunked_body_that_never_ends_is_answered_all_the_same(punctual: Proxy) -> None:
    head = signed_post(punctual, Content_Length=None, Transfer_Encoding="chunked")[HEAD]
    with Wire(punctual) as wire:
        wire.send(head + b"6b\r\n" + HEALTH_BODY + b"\r\n")

        assert_error(wire.reply(), 400, "ValidationException")
        wire.wait_until_closed()


def test_a_head_that_stalls_or_trickles_is_closed(proxy: Proxy) -> None:
    """After HEAD_SECONDS; whether it is the first request of the connection or a later one."""
    part = signed_post(proxy)[:40]
    with connections(proxy, 4) as (stalled, trickling, later, pipelined):
        assert later.ask(signed_post(proxy)).status == 200
        assert pipelined.ask(signed_post(proxy)).status == 200
        stalled.send(part)
        later.send(part)
        trickling.send(part)

        while not is_closed(trickling):
            trickling.send_what_is_taken(b"x")

        assert stalled.wait_until_closed() == b""
        assert later.wait_until_closed() == b""
    assert_serving(proxy)


def test_a_connection_that_is_idle_is_not_taken_for_one_whose_head_stalls(proxy: Proxy) -> None:
    """A body that comes after its request was refused, or in a packet of its own, begins no new head."""
    refused = request("POST", "/nobody", {"Host": proxy.host, "Content-Length": str(len(HEALTH_BODY))})
    with connections(proxy, 8) as wires:
        for wire in wires[:4]:
            assert wire.ask(refused).status == 404
            wire.send(HEALTH_BODY)
        for wire in wires[4:]:
            wire.send(signed_post(proxy)[HEAD])
            wire.send(signed_post(proxy)[BODY])
            assert wire.reply().status == 200

        time.sleep(6)

        assert [status(wire.send_what_is_taken(signed_post(proxy))) for wire in wires] == [200] * len(wires)


@pytest.mark.slow
def test_a_tls_handshake_that_stalls_or_trickles_is_closed(punctual: Proxy) -> None:
    """After HANDSHAKE_SECONDS."""
    hello = bytes.fromhex("16030100f8010000f40303") + bytes(240)
    with ExitStack() as stack:
        silent, begun, trickling = (
            stack.enter_context(socket.create_connection(("127.0.0.1", punctual.port), timeout=PATIENCE_SECONDS))
            for _ in range(3)
        )
        begun.sendall(hello[:50])
        with suppress(OSError):
            for byte in hello:
                trickling.sendall(bytes([byte]))
                if select.select([silent], [], [], 0.1)[0]:
                    break

        for connection in (silent, begun, trickling):
            with suppress(ConnectionResetError):
                assert connection.recv(100) == b""
    assert_serving(punctual)


# --- Clients that go away


def test_clients_that_go_away_at_any_moment_leave_nothing_behind(proxy: Proxy) -> None:
    pids = wait_for_every_worker(proxy)
    good = signed_post(proxy)
    moments: list[Callable[[Wire], object]] = [
        lambda wire: None,
        lambda wire: wire.send(good[:30]),
        lambda wire: wire.send(good[HEAD]),
        lambda wire: wire.send(good[:-1]),
        lambda wire: wire.send(good),
        lambda wire: wire.send(good * 50),
        lambda wire: begin(wire, proxy),
        lambda wire: wire.send(good).reply(),
        lambda wire: wire.send(signed_post(proxy, Content_Length=None, Transfer_Encoding="chunked")[HEAD] + b"6b\r\n"),
    ]
    before = {pid: settled_sockets(pid) for pid in pids}

    for leave in (Wire.close, reset):
        for moment in moments:
            for _ in range(4):
                wire = Wire(proxy)
                moment(wire)
                leave(wire)
    for _ in range(10):
        socket.create_connection(("127.0.0.1", proxy.port)).close()

    assert_serving(proxy)
    wait_until_sockets_are_closed(before)
    assert workers(proxy) == pids


@pytest.mark.parametrize("leave", [Wire.close, reset])
def test_a_client_that_goes_in_the_middle_of_a_body_is_no_failure_of_the_proxy(
    proxy: Proxy, leave: Callable[[Wire], None]
) -> None:
    mark = f"127.0.0.{random.randint(2, 254)}"
    before = len(lines_with(proxy.log, mark, "request"))
    wire = Wire(proxy, source=mark)
    begin(wire, proxy)
    wire.send(HEALTH_BODY[:5])

    leave(wire)

    lines = eventually(lambda: lines_with(proxy.log, mark, "request")[before:])
    assert "ValidationException" in lines[0]
    assert "before the request body was complete" in lines[0]
    assert "InternalException" not in lines[0]


def test_an_answer_that_is_not_read_holds_up_nobody_else(proxy: Proxy) -> None:
    with Wire(proxy) as greedy:
        greedy.socket.settimeout(0.5)
        with suppress(TimeoutError):
            for _ in range(200):
                greedy.send(signed_post(proxy, key_path("metadata"), b"{}") * 100)
        assert_serving(proxy, 8)
    assert_serving(proxy)


# --- The cap on connections


@pytest.fixture(scope="module")
def five_connections(environment: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy of one worker that keeps five connections."""
    with OwnProxy(environment, tmp_path_factory.mktemp("five")) as made:
        yield made.start(server="workers = 1\nmax_connections = 5", body_ms=UNHURRIED_MS)


@pytest.mark.slow
def test_idle_connections_make_room_for_new_ones(five_connections: Proxy) -> None:
    proxy = five_connections
    pid = only_worker(proxy)
    before = settled_sockets(pid)

    with connections(proxy, 30):
        with Wire(proxy) as wire:
            assert wire.ask(signed_post(proxy)).status == 200
        eventually(lambda: sockets(pid) - before <= 5)
        assert_serving(proxy, 10)

    wait_until_sockets_are_closed({pid: before})


@pytest.mark.slow
def test_of_idle_connections_the_one_idle_longest_goes(five_connections: Proxy) -> None:
    proxy = five_connections

    with connections(proxy, 5, used=True) as wires:
        for wire in wires[:2] + wires[3:]:  # the third has been idle longest then
            assert wire.ask(signed_post(proxy)).status == 200
        with Wire(proxy) as another:
            assert another.ask(signed_post(proxy)).status == 200
            assert wires[2].wait_until_closed() == b""
            for wire in wires[:2] + wires[3:]:
                assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.slow
def test_stalled_handshakes_make_room_for_new_connections(five_connections: Proxy) -> None:
    proxy = five_connections
    pid = only_worker(proxy)
    before = settled_sockets(pid)

    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
        with Wire(proxy) as wire:
            assert wire.ask(signed_post(proxy)).status == 200
            # Sooner than a stalled handshake is given up for its time.
            eventually(lambda: sockets(pid) - before <= 5, seconds=10)
        assert_serving(proxy)

    wait_until_sockets_are_closed({pid: before})


@pytest.mark.slow
def test_connections_in_use_are_not_cut_for_new_ones(five_connections: Proxy) -> None:
    proxy = five_connections

    with connections(proxy, 5, used=True) as wires:
        for wire in wires:
            begin(wire, proxy)
        with pytest.raises((OSError, ClosedByProxy)), Wire(proxy) as another:
            another.ask(signed_post(proxy))
        for wire in wires:
            wire.send(HEALTH_BODY)
        assert [wire.reply().status for wire in wires] == [200] * 5
    assert_serving(proxy)


@pytest.mark.slow
def test_many_clients_that_connect_at_once_are_all_served_below_the_cap(own_proxy: OwnProxy) -> None:
    """As KMS comes back after an interruption: no handshake that makes progress is given up for a later one."""
    proxy = own_proxy.start(server="workers = 1\nmax_connections = 200")
    context = proxy.context()

    async def come() -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context)
            writer.write(signed_post(proxy))
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        except OSError as error:
            return repr(error).encode()
        return line

    async def come_together() -> list[bytes]:
        return await asyncio.gather(*(come() for _ in range(150)))

    assert Counter(asyncio.run(come_together())) == {b"HTTP/1.1 200 OK\r\n": 150}


@pytest.mark.slow
def test_a_storm_of_connections_leaks_no_descriptor(five_connections: Proxy) -> None:
    proxy = five_connections
    pid = only_worker(proxy)
    before = settled_sockets(pid)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only their number matters

    for _ in range(5):
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
                with suppress(OSError):
                    stack.enter_context(Wire(proxy))
    assert_serving(proxy)

    wait_until_sockets_are_closed({pid: before})
    eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors)  # noqa: PTH208


# --- The cap on requests


@pytest.mark.slow
def test_who_only_connects_displaces_no_connection_that_carried_a_signed_request(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 1\nmax_connections = 20")

    with connections(proxy, 6) as wires, ExitStack() as stack:
        for wire in wires:
            assert wire.ask(signed_post(proxy)).status == 200
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
        stack.enter_context(connections(proxy, 30))

        assert [wire.ask(signed_post(proxy)).status for wire in wires] == [200] * 6


@pytest.mark.slow
def test_a_request_above_max_in_flight_is_throttled_and_strangers_do_not_count(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    faulty = make_faulty()
    settings = "workers = 1\nmax_in_flight = 1"
    proxy = own_proxy.start(server=settings, edit=lambda text: on(faulty, text), body_ms=UNHURRIED_MS)
    encrypt, body = key_path("encrypt"), encrypt_body(b"text")

    with connections(proxy, 8) as (busy, other, *strangers):
        for stranger in strangers:
            begin(stranger, proxy)
        assert other.ask(signed_post(proxy)).status == 200

        faulty.tell("C_Encrypt hang")
        busy.send(signed_post(proxy, encrypt, body))
        eventually(lambda: other.ask(signed_post(proxy)).status, 429)
        assert other.ask(request("GET", "/ping", {"Host": "x"})).status == 200
        faulty.tell()
        assert busy.reply().status == 200
        assert other.ask(signed_post(proxy)).status == 200
    assert_serving(proxy)


# --- SIGTERM


@pytest.mark.slow
def test_sigterm_finishes_what_is_begun_and_asks_clients_to_close(own_proxy: OwnProxy) -> None:
    """Connections that are open go on to be served while the worker leaves, each answer asking to close."""
    proxy = own_proxy.start(server="workers = 1", body_ms=UNHURRIED_MS)
    with connections(proxy, 4, used=True) as (busy, asking, idle, late):
        begin(busy, proxy)
        proxy.process.terminate()
        busy.send(HEALTH_BODY)
        assert busy.reply().status == 200

        eventually(lambda: asking.ask(signed_post(proxy)).closes)
        for wire in (idle, late):  # the worker is leaving now
            begin(wire, proxy)
            wire.send(HEALTH_BODY)
            reply = wire.reply()
            assert (reply.status, reply.closes) == (200, True)
        for wire in (asking, idle, late):
            assert wire.wait_until_closed() == b""
    assert proxy.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_sigterm_answers_the_request_whose_body_stays_away(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 1", deadline_ms=None)

    with Wire(proxy) as wire:
        begin(wire, proxy)
        proxy.process.terminate()
        assert_error(wire.reply(), 400, "ValidationException")
        wire.wait_until_closed()

    assert proxy.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_sigterm_closes_idle_and_unfinished_connections_and_ends_with_0(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    pids = wait_for_every_worker(proxy)

    with connections(proxy, 6) as wires, socket.create_connection(("127.0.0.1", proxy.port)):
        assert wires[0].ask(signed_post(proxy)).status == 200
        wires[1].send(signed_post(proxy)[:30])

        assert stop(proxy) == 0
        for wire in wires:
            assert wire.wait_until_closed() == b""

    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


# --- SIGHUP, and workers that die


def break_syntax(directory: Path) -> str:
    config = directory / "xksproxy.toml"
    config.write_text(config.read_text() + "\nnot TOML")
    return "not TOML"


def add_unknown_key(directory: Path) -> str:
    config = directory / "xksproxy.toml"
    config.write_text(config.read_text().replace("[server]\n", "[server]\nworkerz = 2\n"))
    return "server.workerz"


def break_certificate(directory: Path) -> str:
    (directory / "tls" / "server.pem").write_text("nonsense")
    return "server.tls"


def expose_credential(directory: Path) -> str:
    (file, *_) = (directory / "credentials").iterdir()
    file.chmod(0o644)
    return "0644"


def remove_credentials(directory: Path) -> str:
    for file in (directory / "credentials").iterdir():
        file.unlink()
    return "holds no credential"


BREAKAGES = [
    break_syntax,
    add_unknown_key,
    break_certificate,
    expose_credential,
    remove_credentials,
]


@pytest.mark.slow
def test_sighup_with_a_broken_configuration_goes_on_serving_with_the_old_one(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    proxy = own_proxy.start()
    directory, good = proxy.environment.directory, tmp_path / "good"
    shutil.copytree(directory, good, ignore=shutil.ignore_patterns("state", "log"))
    pids = workers(proxy)

    with Wire(proxy) as wire:
        assert wire.ask(signed_post(proxy)).status == 200
        for breakage in BREAKAGES:
            reason = breakage(directory)
            proxy.process.send_signal(signal.SIGHUP)
            eventually(lambda reason=reason: lines_with(proxy.log, "configuration refused", reason))
            eventually(lambda: "\nxksproxy_config_reload_failed 2.0\n" in metrics_text(proxy))
            assert_serving(proxy, 8)
            reply = wire.ask(signed_post(proxy))
            assert (reply.status, reply.closes) == (200, False), "a connection was cut although nothing changed"
            assert workers(proxy) == pids

            shutil.copytree(good, directory, dirs_exist_ok=True)
            proxy.process.send_signal(signal.SIGHUP)
            eventually(lambda: "\nxksproxy_config_reload_failed 0.0\n" in metrics_text(proxy))
    assert workers(proxy) == pids
    assert stop(proxy) == 0


@pytest.mark.slow
@pytest.mark.parametrize("breakage", [break_certificate, expose_credential])
def test_a_worker_that_dies_while_files_are_broken_does_not_end_the_service(
    own_proxy: OwnProxy, breakage: Callable[[Path], str]
) -> None:
    proxy = own_proxy.start(server="workers = 2")
    pids = wait_for_every_worker(proxy)

    breakage(proxy.environment.directory)
    os.kill(min(pids), signal.SIGKILL)

    assert remains(lambda: proxy.process.poll() is None, seconds=3), "the proxy has ended"
    assert_serving(proxy)


@pytest.mark.slow
def test_workers_leave_when_their_master_has_died(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 2")
    pids = wait_for_every_worker(proxy)

    proxy.process.kill()
    proxy.process.wait(PATIENCE_SECONDS)

    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.slow
def test_sighup_takes_a_new_credential_in_and_a_removed_one_out(own_proxy: OwnProxy) -> None:
    """R-AUTH-11 and R-AUTH-12, as in a rotation."""
    proxy = own_proxy.start(server="workers = 1")
    old, new = proxy.credential, generate_credential()
    credentials = proxy.environment.directory / "credentials"

    def statuses() -> tuple[int, int]:
        found = []
        for credential in (old, new):
            headers = signed(proxy, HEALTH, HEALTH_BODY, credential=credential)
            try:
                with Wire(proxy) as wire:
                    found.append(wire.ask(request("POST", HEALTH, headers, HEALTH_BODY)).status)
            except (OSError, ClosedByProxy):
                found.append(0)
        return found[0], found[1]

    assert statuses() == (200, 401)
    save_credential(credentials, new)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: statuses() == (200, 200))

    (credentials / f"{old.access_key_id}.toml").unlink()
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: statuses() == (401, 200))
    assert stop(proxy) == 0


def test_two_credentials_of_one_key_store_work_side_by_side(proxy: Proxy) -> None:
    """R-AUTH-11: on one connection as on several, in turn, on every worker."""
    with connections(proxy, 6) as wires:
        for credential in (proxy.credential, proxy.second_credential) * 3:
            for wire in wires:
                headers = signed(proxy, HEALTH, HEALTH_BODY, credential=credential)
                assert wire.ask(request("POST", HEALTH, headers, HEALTH_BODY)).status == 200

"""Workers and their master: what replaces them, what they are told, what the service manager hears."""

import http.client
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from fault_support import FaultyHsm
from server_support import (
    HEALTH,
    OwnProxy,
    Wire,
    ask_admin,
    assert_serving,
    connections,
    encoded,
    encrypt_body,
    health_on_connections,
    key_path,
    on,
    signed_post,
    stop,
    workers,
    written_log,
)
from support import (
    PATIENCE_SECONDS,
    Proxy,
    eventually,
    free_port,
    is_listening,
    lines_with,
    metrics_text,
    remains,
    status,
)

from xksproxy.client.xks import XksClient
from xksproxy.config.credentials import save_credential
from xksproxy.config.load import load_config
from xksproxy.server.notify import ServiceManager
from xksproxy.server.supervisor import respawn_pause
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.spec.uri import Operation

pytestmark = pytest.mark.slow


class Load:
    """Requests over kept connections, as KMS holds them, from a thread; what went wrong is kept."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._ended = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            with XksClient(self._proxy.endpoint(), self._proxy.context(), timeout=PATIENCE_SECONDS) as client:
                try:
                    while not self._ended.is_set():
                        self._ask(client)
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))

    def _ask(self, client: XksClient) -> None:
        message = {"requestMetadata": {"kmsRequestId": "load", "kmsOperation": "KmsHealthCheck"}}
        answer = client.call(Operation.GET_HEALTH_STATUS, message)
        self.answers += 1
        if answer.status != 200:
            self.failures.append(str(answer.body))
        time.sleep(0.04)


def change(proxy: Proxy, old: str, new: str) -> None:
    text = proxy.environment.config.read_text()
    assert old in text
    proxy.environment.config.write_text(text.replace(old, new, 1))
    proxy.process.send_signal(signal.SIGHUP)


def probe(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_killed_worker_is_replaced_while_the_others_serve(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    before = workers(proxy)

    os.kill(min(before), signal.SIGKILL)

    eventually(lambda: len(workers(proxy)) == 2 and workers(proxy) != before)
    assert_serving(proxy, 10)


def test_a_change_of_key_stores_takes_place_inside_the_workers_and_cuts_nothing(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    before = workers(proxy)
    credential = generate_credential()
    with Load(proxy) as load, connections(proxy, 6, used=True) as idle:
        save_credential(proxy.environment.directory / "credentials", credential)
        change(proxy, 'id = "impotent-key"', 'id = "impotent-*"')

        def accepted() -> bool:
            message = {"requestMetadata": {"kmsRequestId": "new", "kmsOperation": "KmsHealthCheck"}}
            for _ in range(12):
                with XksClient(proxy.endpoint(credential=credential), proxy.context()) as client:
                    if client.call(Operation.GET_HEALTH_STATUS, message).status != 200:
                        return False
            return True

        eventually(accepted)
        eventually(lambda: load.answers > 50)
        assert [wire.ask(signed_post(proxy)).status for wire in idle] == [200] * 6

    assert workers(proxy) == before
    assert load.failures == []


def test_a_change_of_the_server_replaces_workers_one_after_another_and_cuts_nothing(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    with Load(proxy) as load:
        for old, new in (
            ('preset = "softhsm2"', 'preset = "softhsm2"\nsessions = 3'),
            ("sessions = 3", "sessions = 2"),
        ):
            before = workers(proxy)
            change(proxy, old, new)
            eventually(lambda before=before: not before & workers(proxy) and len(workers(proxy)) == 2)
        eventually(lambda: load.answers > 50)

    assert load.failures == []


def test_a_worker_that_alone_gets_sighup_reads_no_file(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 1")
    (worker,) = workers(proxy)
    config = proxy.environment.config
    config.write_text(config.read_text().replace('id = "demo-key"', 'id = "another-id"'))

    os.kill(worker, signal.SIGHUP)

    eventually(lambda: lines_with(proxy.log, "configuration in use already", "number=1"))
    with Wire(proxy) as wire:
        assert wire.ask(signed_post(proxy, key_path("encrypt"), encrypt_body(b"text"))).status == 200


def test_the_health_listener_tells_live_from_ready(own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]) -> None:
    """R-LB-1, R-LB-2; and all HSMs down is a 200 that says so (Q-14), not ready, and heals without a restart."""
    faulty, port = make_faulty(), free_port()

    def edit(text: str) -> str:
        return on(faulty, text, "check_interval_s = 1") + f'\n[health]\nlisten = "127.0.0.1:{port}"\n'

    proxy = own_proxy.start(edit=edit)
    eventually(lambda: probe(port, "/readyz") == 200)
    assert [probe(port, path) for path in ("/livez", "/", "/kms/xks/v1/health", "/metrics")] == [200, 404, 404, 404]

    faulty.tell("* return 0x30")
    eventually(lambda: probe(port, "/readyz") == 503)
    assert probe(port, "/livez") == 200
    with Wire(proxy) as wire:
        eventually(lambda: b"UNAVAILABLE" in wire.ask(signed_post(proxy, HEALTH)).content)

    faulty.tell()
    eventually(lambda: probe(port, "/readyz") == 200)

    def says() -> bytes:
        with Wire(proxy) as wire:  # a worker whose HSM is not back yet closes connections if another one serves
            return wire.ask(signed_post(proxy, HEALTH)).content

    eventually(lambda: b'"ACTIVE"' in says())


def test_the_first_requests_of_a_proxy_that_says_it_is_ready_are_answered(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    """Two HSMs that cannot be reached at first, two workers, and no record of any key.

    ``benchmarks/starts.py`` does it 30 times, with the deadline of production.
    """
    pair = {"first": make_faulty(), "second": make_faulty()}
    for faulty in pair.values():
        faulty.tell("C_Login return 0x30 count=5")

    def edit(text: str) -> str:
        table = text[text.index("[[hsm]]") : text.index("[[keystore]]")]
        tables = [on(faulty, table).replace('id = "softhsm"', f'id = "{name}"') for name, faulty in pair.items()]
        text = text.replace(table, "".join(tables)).replace('hsms = ["softhsm"]', 'hsms = ["first", "second"]')
        return text.replace('directory = "state"', 'directory = "empty-state"')

    proxy = own_proxy.start(edit=edit, deadline_ms=5000, serving=False)
    # Each connection is another worker's, perhaps: with 16 answers both have said it.
    eventually(lambda: {ask_admin(proxy, "/readyz/dev").status for _ in range(16)} == {200})
    metadata = {"awsPrincipalArn": "arn", "kmsKeyArn": "arn", "kmsOperation": "Encrypt", "kmsRequestId": "first"}
    message = {"requestMetadata": metadata, "plaintext": encoded(b"text"), "encryptionAlgorithm": "AES_GCM"}

    def ask(_: int) -> int:
        with XksClient(proxy.endpoint(), proxy.context(), timeout=PATIENCE_SECONDS) as client:
            return client.call(Operation.ENCRYPT, message, "demo-key").status

    with ThreadPoolExecutor(48) as pool:
        assert Counter(pool.map(ask, range(48))) == {200: 48}


def test_a_worker_with_every_call_stuck_is_replaced(own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]) -> None:
    faulty = make_faulty()

    proxy = own_proxy.start(
        server="workers = 1",
        edit=lambda text: on(faulty, text, "sessions = 1\ncheck_interval_s = 1\nconnect_timeout_s = 2"),
    )
    (before,) = workers(proxy)
    faulty.tell("C_Encrypt hang")

    eventually(lambda: workers(proxy) - {before})
    eventually(lambda: lines_with(proxy.log, "no HSM call returns"))
    faulty.tell()
    eventually(lambda: len(workers(proxy)) == 1 and before not in workers(proxy))


def test_a_worker_for_which_the_token_has_no_session_fails_nothing(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    faulty = make_faulty()

    proxy = own_proxy.start(server="workers = 3", edit=lambda text: on(faulty, text, "check_interval_s = 1"))
    faulty.tell("one", "drop")
    eventually(lambda: len(lines_with(proxy.log, "worker has no HSM session")) == 2)
    # The worker that has the session may be opening it anew.
    eventually(lambda: health_on_connections(proxy, 24) <= {"ACTIVE", "DEGRADED"})
    (owner,) = {int(line) for line in Path(f"{faulty.control}.owner").read_text().split()}

    proxy.process.send_signal(signal.SIGSTOP)  # or the next worker could be the first to take the session
    os.kill(owner, signal.SIGKILL)
    eventually(lambda: lines_with(proxy.log, "worker accepts connections"))
    proxy.process.send_signal(signal.SIGCONT)
    eventually(lambda: owner not in workers(proxy) and len(workers(proxy)) == 3)
    eventually(lambda: len(lines_with(proxy.log, "worker has no HSM session")) >= 3)
    eventually(lambda: health_on_connections(proxy, 24) <= {"ACTIVE", "DEGRADED"})


def test_a_segfault_in_the_module_costs_one_worker_only(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    faulty = make_faulty()

    proxy = own_proxy.start(edit=lambda text: on(faulty, text, "check_interval_s = 1"))
    before = workers(proxy)
    faulty.tell("C_Encrypt segfault")

    eventually(lambda: len(workers(proxy)) == 2 and len(workers(proxy) & before) == 1)
    assert_serving(proxy, 8)


def test_sigterm_ends_the_service_although_a_call_is_stuck(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    faulty = make_faulty()

    proxy = own_proxy.start(edit=lambda text: on(faulty, text, "check_interval_s = 1"))
    faulty.tell("* hang")
    eventually(lambda: "does not return" in proxy.log.read_text())

    assert stop(proxy) == 0


def test_the_service_manager_hears_ready_when_a_worker_serves_and_then_the_watchdog(
    own_proxy: OwnProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.settimeout(PATIENCE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")
        proxy = own_proxy.start()

        assert channel.recv(1000).startswith(b"READY=1")
        assert_serving(proxy, 1)
        assert [channel.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3

        for pid in workers(proxy):  # a worker whose heart has stopped is no worker that serves
            os.kill(pid, signal.SIGSTOP)
        time.sleep(6)
        channel.setblocking(False)
        with suppress(BlockingIOError):
            while channel.recv(1000):
                pass
        time.sleep(3)
        with pytest.raises(BlockingIOError):
            channel.recv(1000)

        for pid in workers(proxy):
            os.kill(pid, signal.SIGCONT)
        channel.settimeout(PATIENCE_SECONDS)
        assert channel.recv(1000) == b"WATCHDOG=1"
        proxy.process.terminate()
        while (message := channel.recv(1000)) != b"STOPPING=1":
            assert message == b"WATCHDOG=1"


def test_without_a_notify_socket_nothing_is_sent() -> None:
    manager = ServiceManager.from_environment({})

    manager.report(serving=True)
    manager.stopping()


def test_the_pause_before_a_new_worker_grows_only_when_workers_die_young() -> None:
    pauses = [respawn_pause(deaths) for deaths in range(12)]

    assert pauses[:2] == [0, 0]
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == 10


def test_two_changes_in_quick_succession_cut_nothing(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    """The second reaches workers that the first has made stale, and that know nothing of its HSM."""
    faulty = make_faulty()
    proxy = own_proxy.start()
    before = workers(proxy)
    text = proxy.environment.config.read_text()
    table = text[text.index("[[hsm]]") : text.index("[[keystore]]")]
    second = on(faulty, table).replace('id = "softhsm"', 'id = "second"')
    with Load(proxy) as load:
        change(proxy, table, table + second)
        change(proxy, 'hsms = ["softhsm"]', 'hsms = ["softhsm", "second"]')
        change(proxy, 'id = "impotent-key"', 'id = "impotent-*"')

        eventually(lambda: not before & workers(proxy) and len(workers(proxy)) == 2)

    assert load.failures == []
    assert "worker failed" not in written_log(proxy)


def test_listeners_may_come_go_and_stay_by_sighup(own_proxy: OwnProxy) -> None:
    health, admin, taken = free_port(), free_port(), free_port()
    proxy = own_proxy.start()
    assert_serving(proxy)
    config = proxy.environment.config
    text = config.read_text()
    old_admin = load_config(config).admin.listen

    config.write_text(
        text.replace(f'listen = "{old_admin}"', f'listen = "127.0.0.1:{admin}"')
        + f'\n[health]\nlisten = "127.0.0.1:{health}"\n'
    )
    proxy.process.send_signal(signal.SIGHUP)

    eventually(
        lambda: is_listening(health) and is_listening(admin) and not is_listening(int(old_admin.rpartition(":")[2]))
    )
    assert_serving(proxy)
    spoken = {f"127.0.0.1:{proxy.port}": "HTTPS", old_admin: "HTTP", f"127.0.0.1:{health}": "HTTP"}
    for address, protocol in spoken.items():
        assert lines_with(proxy.log, " listening ", f'address="{address}" protocol="{protocol}"')
    assert "Listening at" not in proxy.log.read_text()
    with socket.create_server(("127.0.0.1", taken)):
        config.write_text(text.replace(f'listen = "{old_admin}"', f'listen = "127.0.0.1:{taken}"'))
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: "cannot listen on" in proxy.log.read_text())
    assert remains(lambda: proxy.process.poll() is None, seconds=1)
    assert is_listening(health)
    assert_serving(proxy)


@pytest.mark.parametrize(
    "breakage", ["a wrong PIN", "a token that does not exist", "a token that does not exist, under another id"]
)
def test_a_change_whose_workers_cannot_serve_what_is_served_is_taken_back_whole(
    own_proxy: OwnProxy, breakage: str
) -> None:
    """The old workers stay, not one request fails, and log, status and metric say so with the reason."""
    proxy = own_proxy.start()
    before = workers(proxy)
    config = proxy.environment.config
    good = config.read_text()
    with Load(proxy) as load:
        if breakage == "a wrong PIN":
            pin = proxy.environment.directory / "wrong-pin"
            pin.write_text("123456")
            pin.chmod(0o600)
            bad = re.sub(r"(?m)^pin = .*$", 'pin = { file = "wrong-pin" }', good)
        else:
            bad = re.sub(r"(?m)^token = .*$", 'token = "no such token"', good)
            if breakage.endswith("another id"):
                bad = bad.replace('"softhsm"', '"renamed"')
        assert bad != good
        config.write_text(bad)
        proxy.process.send_signal(signal.SIGHUP)

        (line,) = eventually(lambda: lines_with(proxy.log, "configuration taken back"))
        assert f"HSM {'renamed' if breakage.endswith('another id') else 'softhsm'} does not serve" in line
        eventually(lambda: workers(proxy) == before)
        eventually(lambda: "reload-refused" in causes(proxy))
        eventually(lambda: "\nxksproxy_config_reload_failed 2.0\n" in metrics_text(proxy))
        assert_serving(proxy, 8)

        config.write_text(good)
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: "\nxksproxy_config_reload_failed 0.0\n" in metrics_text(proxy))
        eventually(lambda: "reload-refused" not in causes(proxy))
    assert workers(proxy) == before
    assert load.failures == []


def causes(proxy: Proxy) -> list[str]:
    """What the status reports as wrong."""
    return [condition["cause"] for condition in status_of(proxy)["conditions"]]


def status_of(proxy: Proxy) -> dict[str, Any]:
    return status(load_config(proxy.environment.config).admin.listen)

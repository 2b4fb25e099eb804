"""Two proxies behind a TCP load balancer that asks for /readyz, under load, while one of them goes down and comes back.

The load balancer is HAProxy, set up as deploy/aws sets up the network load balancer; most frontends ask more often.
"""

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest
from deploy_support import DEPLOY
from server_support import Caller, OwnProxy, SealedMessage, encoded, workers
from support import PATIENCE_SECONDS, REGION, Proxy, eventually, free_port, serve
from xksproxy_tools.development.environment import DevEnvironment
from xksproxy_tools.development.softhsm import write_configuration

from xksproxy.client.xks import Endpoint, XksClient

pytestmark = pytest.mark.slow

CHECK_SECONDS = 0.05
CHECK_TIMEOUT_SECONDS = 2
"""A busy machine may take long to answer."""

FALL = 2
TEMPLATE_CHECK_SECONDS = 5
"""HealthCheckIntervalSeconds of deploy/aws, with the same threshold."""
SERVER_SECONDS = 60
CLIENT_SECONDS = 40
"""So long a client waits for an answer: not as long as the load balancer, which has to cut it off before."""

_CALLS_OF_A_CONNECTION = 10
_PAUSE_SECONDS = 0.05

_CONFIGURATION = """\
global
    stats socket {stats} level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client {patience}s
    timeout server {patience}s
    timeout check {timeout}ms
    # No second try that would hide a refused connection: a network load balancer makes none.
    retries 0
"""
_FRONTEND = """\
listen {name}
    bind 127.0.0.1:{port}
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter {inter}ms fall {fall} rise 2 {then}
"""


@dataclass(frozen=True)
class Frontend:
    """A port of the running HAProxy."""

    name: str
    port: int
    stats: Path

    def _server(self, name: str) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(self.stats))
            channel.sendall(b"show stat\n")
            text = b"".join(iter(lambda: channel.recv(65536), b"")).decode()
        titles, *rows = (line.split(",") for line in text.splitlines() if line)
        (row,) = (row for row in rows if row[:2] == [self.name, name])
        return dict(zip(titles, row, strict=False))

    def up(self, name: str) -> bool:
        return self._server(name)["status"] == "UP"

    def down(self, name: str) -> bool:
        """Whether it gets no connections any more; between the first bad check and the last one it still does."""
        return self._server(name)["status"].startswith("DOWN")

    def connections(self, name: str) -> int:
        """How many connections a server has had."""
        return int(self._server(name)["stot"])


@dataclass(frozen=True)
class Pair:
    """Two proxies, each with a copy of the same token, and the load balancer before them.

    ``cutting`` ends the connections to a proxy that it finds down; ``patient`` and ``template`` let them be, and
    ``template`` asks as seldom as deploy/aws does.
    """

    proxies: dict[str, Proxy]
    patient: Frontend
    cutting: Frontend
    template: Frontend

    def record_request(self, name: str, number: int) -> None:
        """SIGTERM goes to the master, as systemd sends it; what befalls a machine befalls all of its processes."""
        proxy = self.proxies[name]
        others = () if number == signal.SIGTERM else workers(proxy)
        for pid in (proxy.process.pid, *others):
            os.kill(pid, number)
        if number != signal.SIGSTOP:
            proxy.process.wait(PATIENCE_SECONDS)

    def bring_back(self, name: str) -> None:
        proxy = self.proxies[name]
        if proxy.process.poll() is None:
            for pid in (proxy.process.pid, *workers(proxy)):
                os.kill(pid, signal.SIGCONT)
        else:
            self.proxies[name] = replace(proxy, process=serve(proxy.environment.config, proxy.log))

    def end(self) -> None:
        for name, proxy in self.proxies.items():
            if proxy.process.poll() is None:
                self.record_request(name, signal.SIGKILL)


@pytest.fixture(scope="module")
def pair(environment: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    own = OwnProxy(environment, directory)
    with ExitStack() as at_end:
        # The path of a socket has room for 107 bytes, which that of a test's own directory may exceed.
        stats = Path(at_end.enter_context(tempfile.TemporaryDirectory()), "stats")
        frontends = [Frontend(name, free_port(), stats) for name in ("patient", "cutting", "template")]
        made = Pair({}, *frontends)
        at_end.callback(made.end)
        servers = ""
        for name in ("one", "two"):
            health = free_port()
            edit = _on_a_machine_of_its_own(environment, directory / f"{name}-hsm", health)
            # One worker: a second would log in, and SoftHSM2 fail calls, while the first already serves.
            made.proxies[name] = own.start(name, server="workers = 1", edit=edit)
            servers += f"    server {name} 127.0.0.1:{made.proxies[name].port} port {health}\n"
        configuration = directory / "haproxy.cfg"
        configuration.write_text(_configuration(frontends, servers))
        process = subprocess.Popen(["haproxy", "-db", "-f", str(configuration)])
        at_end.callback(process.wait, PATIENCE_SECONDS)
        at_end.callback(process.terminate)
        eventually(stats.exists)
        eventually(lambda: all(frontend.up(name) for frontend in frontends for name in made.proxies))
        yield made


def _configuration(frontends: Iterable[Frontend], servers: str) -> str:
    text = ""
    for frontend in frontends:
        text = text or _CONFIGURATION.format(
            stats=frontend.stats, timeout=round(1000 * CHECK_TIMEOUT_SECONDS), patience=SERVER_SECONDS
        )
        then = "on-marked-down shutdown-sessions" if frontend.name == "cutting" else ""
        inter = round(1000 * (TEMPLATE_CHECK_SECONDS if frontend.name == "template" else CHECK_SECONDS))
        text += _FRONTEND.format(name=frontend.name, port=frontend.port, inter=inter, fall=FALL, then=then) + servers
    return text


def _on_a_machine_of_its_own(environment: DevEnvironment, hsm: Path, health: int) -> Callable[[str], str]:
    """Its own copy of the token: SoftHSM2 fails calls while another process logs in to the same one."""
    hsm.mkdir()
    shutil.copytree(environment.directory / "tokens", hsm / "tokens")
    write_configuration(hsm / "softhsm2.conf", hsm / "tokens")
    old = str(environment.directory / "softhsm2.conf")

    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, str(hsm / "softhsm2.conf")) + f'\n[health]\nlisten = "127.0.0.1:{health}"\n'

    return edit


class Clients:
    """Connections that encrypt and decrypt, are given up for new ones from time to time, and come back when cut."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, metadata: dict[str, str], count: int = 6) -> None:
        self._endpoint = endpoint
        self._context = context
        self._metadata = metadata
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        self._tried = [0.0] * count
        """When each sent the last request that has ended."""
        self.answered: list[float] = []
        self.failed: list[tuple[float, str]] = []
        """When a request that failed was sent, and why."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._ended.is_set():
            with XksClient(self._endpoint, self._context, timeout=CLIENT_SECONDS) as client:
                caller = Caller(client, self._metadata)
                for _ in range(_CALLS_OF_A_CONNECTION):
                    sent = time.monotonic()
                    try:
                        self._round_trip(caller, sent)
                    except (OSError, http.client.HTTPException) as error:
                        self.failed.append((sent, repr(error)))
                        break
                    finally:
                        self._tried[number] = sent
                    time.sleep(_PAUSE_SECONDS)

    def _round_trip(self, caller: Caller, sent: float) -> None:
        answer = caller.encrypt("demo-key", b"plaintext")
        if answer.status == 200:
            answer = caller.decrypt("demo-key", SealedMessage.of(answer))
        if answer.body.get("plaintext") == encoded(b"plaintext"):
            self.answered.append(sent)
        else:
            self.failed.append((sent, str(answer.body)))

    def failures_after(self, moment: float) -> list[tuple[float, str]]:
        """Seconds after a moment, and why."""
        return [(round(sent - moment, 2), why) for sent, why in self.failed if sent > moment]

    def all_tried_after(self, moment: float) -> bool:
        """Whether each has sent a request since, and so knows whether its connection still leads somewhere."""
        return all(sent > moment for sent in self._tried)

    def answers_after(self, moment: float) -> int:
        return sum(sent > moment for sent in self.answered)


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "one"), (signal.SIGKILL, "two"), (signal.SIGSTOP, "one")],
    ids=["stopped", "killed", "hanging"],
)
def test_a_proxy_that_goes_down_costs_no_request_once_the_load_balancer_has_noticed(
    pair: Pair, request_metadata: dict[str, str], number: int, name: str
) -> None:
    """What may fail before: on a killed or hanging proxy, what is in flight there, and what is sent there until then.

    One that is stopped costs nothing at all: /readyz is 503 for longer than the load balancer needs to notice, while
    everything goes on being answered.
    """
    frontend = pair.cutting if number == signal.SIGSTOP else pair.patient
    proxy = pair.proxies[name]
    endpoint = Endpoint(f"localhost:{frontend.port}", "/dev", REGION, proxy.credential)
    with Clients(endpoint, proxy.context(), request_metadata) as clients:
        eventually(lambda: len(clients.answered) > 100)
        pair.record_request(name, number)
        eventually(lambda: frontend.down(name))
        down = time.monotonic()
        eventually(lambda: clients.all_tried_after(down))
        noticed = time.monotonic()
        eventually(lambda: clients.answers_after(noticed) > 50)

        pair.bring_back(name)
        eventually(lambda: frontend.up(name))
        before = frontend.connections(name)
        for _ in range(4):
            with XksClient(endpoint, proxy.context()) as client:
                caller = Caller(client, request_metadata)
                assert caller.open("demo-key", caller.seal("demo-key", b"plaintext")) == b"plaintext"
        assert frontend.connections(name) > before

    assert clients.failures_after(noticed) == []
    # Nobody was left waiting by a proxy that is down.
    assert not [why for _, why in clients.failed if "timed out" in why]
    if number == signal.SIGTERM:
        assert clients.failed == []


def test_a_stop_with_the_checks_of_the_template_costs_no_request(pair: Pair, request_metadata: dict[str, str]) -> None:
    """The proxy has the default of drain_s."""
    template = (DEPLOY / "aws" / "endpoint-service.yaml").read_text()
    assert f"HealthCheckIntervalSeconds: {TEMPLATE_CHECK_SECONDS}\n" in template
    assert f"UnhealthyThresholdCount: {FALL}\n" in template
    proxy = pair.proxies["one"]
    endpoint = Endpoint(f"localhost:{pair.template.port}", "/dev", REGION, proxy.credential)
    with Clients(endpoint, proxy.context(), request_metadata) as clients:
        eventually(lambda: len(clients.answered) > 100)
        pair.record_request("one", signal.SIGTERM)
        ended = time.monotonic()
        eventually(lambda: clients.all_tried_after(ended))
        eventually(lambda: clients.answers_after(ended) > 50)

    assert clients.failed == []
    assert pair.template.down("one")
    pair.bring_back("one")
    eventually(lambda: pair.template.up("one"))

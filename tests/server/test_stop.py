"""SIGTERM behind a load balancer: it is told first, and everything is served until it has had its time."""

import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server_support import OwnProxy, Wire, request, signed_post, workers
from support import PATIENCE_SECONDS, Proxy, eventually, free_port, lines_with, remains

from xksproxy.config.load import load_config
from xksproxy.server.followers import proxies_of

pytestmark = pytest.mark.slow


def _probe(port: int, path: str = "/readyz") -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _with_health(own_proxy: OwnProxy, server: str) -> tuple[Proxy, int]:
    port = free_port()
    return own_proxy.start(server=server, edit=lambda text: f'{text}\n[health]\nlisten = "127.0.0.1:{port}"\n'), port


def _serves_a_new_client(proxy: Proxy) -> bool:
    with Wire(proxy) as wire:
        return wire.ask(signed_post(proxy)).status == 200


def test_it_is_not_ready_and_serves_new_connections_for_drain_s_and_a_second_sigterm_ends_that(
    own_proxy: OwnProxy,
) -> None:
    proxy, health = _with_health(own_proxy, "workers = 1\ndrain_s = 600")
    assert _probe(health) == 200

    proxy.process.send_signal(signal.SIGTERM)

    eventually(lambda: _probe(health), 503)
    assert remains(lambda: _probe(health) == 503 and _serves_a_new_client(proxy), 3)
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(PATIENCE_SECONDS) == 0


def test_a_worker_that_is_replaced_leaves_the_machine_ready(own_proxy: OwnProxy) -> None:
    proxy, health = _with_health(own_proxy, "workers = 1\ndrain_s = 600\nmax_in_flight = 10")
    before = workers(proxy)
    config = proxy.environment.config
    config.write_text(config.read_text().replace("max_in_flight = 10", "max_in_flight = 11"))

    proxy.process.send_signal(signal.SIGHUP)

    answers = set()

    def is_replaced() -> bool:
        answers.add(_probe(health))
        return not workers(proxy) & before

    eventually(is_replaced)
    assert answers == {200}


def test_without_its_runtime_directory_it_is_not_ready_and_says_so(
    own_proxy: OwnProxy, spawn: Callable[..., Any]
) -> None:
    proxy, health = _with_health(own_proxy, "workers = 1")
    config = load_config(proxy.environment.config)
    (runtime,) = proxies_of(Path(config.state.directory))

    shutil.rmtree(runtime)

    assert (_probe(health), _probe(health, "/livez")) == (503, 200)
    eventually(lambda: lines_with(proxy.log, " condition ", 'cause="runtime-removed"'))
    done = spawn("status", "--config", proxy.environment.config)
    assert done.code == 1
    assert f"the runtime directory {runtime} was removed" in done.text
    assert _probe(int(config.admin.listen.rpartition(":")[2]), "/metrics") == 503
    with Wire(proxy) as wire:
        assert wire.ask(request("GET", "/ping", {"Host": "x"}), "GET").status == 200

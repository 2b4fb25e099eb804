"""A file system that does not answer: what the proxy serves meanwhile, and what it tells operators."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import OwnProxy, Wire, encrypt_body, key_path, on_each_worker, signed_post, workers
from support import PATIENCE_SECONDS, Proxy, eventually, lines_with

from xksproxy.config.load import load_config
from xksproxy.config.model import Config

pytestmark = pytest.mark.slow

_SOURCE = Path(__file__).parents[1] / "faults" / "hanging_disk.c"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("disk") / "hanging_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", output, _SOURCE, "-ldl"], check=True)
    return output


@pytest.fixture
def hang(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Lets calls for paths that begin so hang, in the proxies that are started from now on."""
    control = tmp_path / "hanging"
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("HANGING_DISK", str(control))
    yield lambda path: control.write_text(str(path))
    control.unlink(missing_ok=True)


def _get(config: Config, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{config.admin.listen}{path}", timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _encrypt(proxy: Proxy) -> int:
    with Wire(proxy) as wire:
        return wire.ask(signed_post(proxy, key_path("encrypt"), encrypt_body(b"text"))).status


@pytest.mark.parametrize("place", ["credentials", "xksproxy.toml", "state"])
def test_requests_are_answered_reloads_refused_and_sigterm_obeyed(
    own_proxy: OwnProxy, hang: Callable[[Path], None], place: str
) -> None:
    proxy = own_proxy.start(server="workers = 1", forked=False)
    config = load_config(proxy.environment.config)
    assert _encrypt(proxy) == 200

    hang(proxy.environment.directory / place)

    assert _encrypt(proxy) == 200
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: lines_with(proxy.log, "configuration refused", "a file system does not answer"))
    assert _encrypt(proxy) == 200
    if place != "xksproxy.toml":
        eventually(lambda: lines_with(proxy.log, " condition ", "a file system has not answered for 5 s"))
        assert _get(config, "/readyz") == 503
    assert [_get(config, path) for path in ("/livez", "/status", "/metrics")] == (
        [200, 503, 503] if place == "state" else [200] * 3
    )
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(PATIENCE_SECONDS) == 0


def test_it_serves_again_when_the_file_system_answers_again(
    own_proxy: OwnProxy, hang: Callable[[Path], None], tmp_path: Path
) -> None:
    proxy = own_proxy.start(server="workers = 1", forked=False)
    config = load_config(proxy.environment.config)
    hang(proxy.environment.directory / "state")
    eventually(lambda: _get(config, "/readyz"), 503)

    hang(tmp_path / "nothing")

    eventually(lambda: _get(config, "/readyz"), 200)
    assert (_encrypt(proxy), _get(config, "/status"), _get(config, "/metrics")) == (200, 200, 200)


def test_neither_the_master_nor_an_event_loop_makes_a_call_that_may_wait_for_a_disk(
    own_proxy: OwnProxy,
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    spawn: Callable[..., Any],
    tmp_path: Path,
) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("DISK_CALLS", str(calls))
    proxy = own_proxy.start(forked=False)
    config = load_config(proxy.environment.config)
    pids = {proxy.process.pid, *workers(proxy)}
    assert calls.read_text()
    calls.write_text("")  # the start reads files before anything is served

    for wire in on_each_worker(proxy, lambda: Wire(proxy)):
        with wire:
            for operation in ("encrypt", "encrypt", "metadata"):
                wire.ask(signed_post(proxy, key_path(operation, "encrypt-only-key"), encrypt_body(b"text")))
    for command in (
        ("block", "--keystore", "dev", "--key", "encrypt-only-key"),
        ("unblock", "--keystore", "dev", "--key", "encrypt-only-key"),
        ("reload",),
        ("credentials", "create", "--keystore", "dev"),
    ):
        done = spawn(*command, "--config", proxy.environment.config)
        assert done.code == 0, done.err
    eventually(lambda: lines_with(proxy.log, "changed credentials or certificates in place"))
    assert (_get(config, "/status"), _get(config, "/metrics")) == (200, 200)

    made = [line.split(" ", 1) for line in calls.read_text().splitlines()]
    in_memory = ("/dev/", "/proc/")
    assert {
        ("master" if int(pid) == proxy.process.pid else "worker", path)
        for pid, path in made
        if int(pid) in pids and not path.startswith(in_memory) and not path.startswith(sys.prefix) and ".py" not in path
    } == set()

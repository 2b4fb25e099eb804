"""A file system that does not answer: what the proxy serves meanwhile, and what it tells operators."""

import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import OwnProxy, Wire, encrypt_body, key_path, signed_post
from support import PATIENCE_SECONDS, Proxy, eventually, lines_with

from xksproxy.config.load import load_config

pytestmark = pytest.mark.slow

_SOURCE = Path(__file__).parents[1] / "faults" / "hanging_disk.c"
_POLICY = "permit (principal, action, resource);\n"


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


def _decrypts(proxy: Proxy) -> int:
    with Wire(proxy) as wire:
        sent = wire.ask(signed_post(proxy, key_path("encrypt"), encrypt_body(b"text")))
        return sent.status


@pytest.mark.parametrize("place", ["credentials", "xksproxy.toml", "state"])
def test_requests_are_answered_reloads_refused_and_sigterm_obeyed(
    own_proxy: OwnProxy, hang: Callable[[Path], None], spawn: Callable[..., Any], place: str
) -> None:
    proxy = own_proxy.start(forked=False)
    config = load_config(proxy.environment.config)
    assert _decrypts(proxy) == 200

    hang(proxy.environment.directory / place)

    assert _decrypts(proxy) == 200
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: lines_with(proxy.log, "configuration refused", "a file system does not answer"))
    assert _decrypts(proxy) == 200
    with urllib.request.urlopen(f"http://{config.admin.listen}/livez", timeout=PATIENCE_SECONDS) as answer:
        assert answer.status == 200
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(PATIENCE_SECONDS) == 0

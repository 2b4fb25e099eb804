"""The Dockerfile by its linter and by what it must not get wrong, and the health check against real answers."""

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deploy_support import DEPLOY, TOP
from support import free_port

_DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def _stages() -> dict[str, str]:
    """The text of each build stage with that of the stages it is made from."""
    stages: dict[str, str] = {}
    instructions = re.sub(r"(?m)^#.*\n", "", _DOCKERFILE.read_text())
    for part in re.split(r"(?m)^FROM ", instructions)[1:]:
        head, _, body = part.partition("\n")
        base, name = head.split(" AS ")
        stages[name] = stages.get(base, "") + body
    return stages


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(_DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_production_is_what_one_gets_without_asking() -> None:
    assert list(_stages())[-1] == "production"


@pytest.mark.parametrize("stage", ["production", "demo"])
def test_a_container_runs_without_root(stage: str) -> None:
    users = re.findall(r"(?m)^USER (.*)$", _stages()[stage])
    assert users[-1] == "65532:65532"


def test_production_has_neither_pip_nor_tools_nor_softhsm() -> None:
    stages = _stages()
    assert "COPY --from=proxy /opt/xksproxy" in stages["runtime"]
    assert "pip uninstall" in stages["proxy"]
    for stage in ("build", "proxy", "runtime", "production"):
        assert not re.search(r"(?m)^(RUN|COPY) .*(?<!setup)tools", stages[stage])
        assert "softhsm" not in stages[stage].lower()


def test_the_demo_has_the_command_that_it_runs() -> None:
    stages = _stages()
    assert "pip install --no-cache-dir --constraint requirements.lock ./tools" in stages["tools"]
    assert "COPY --from=tools /opt/xksproxy" in stages["demo"]


def test_only_what_the_build_copies_gets_into_its_context() -> None:
    """So neither secrets nor a development token can end in a layer."""
    everything, *lines = [line for line in _ignored() if not line.startswith("#")]
    assert everything == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = set()
    for sources in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", _DOCKERFILE.read_text()):
        copied |= set(sources.split())
    assert allowed == copied
    assert all((TOP / path).exists() for path in allowed)


def _ignored() -> list[str]:
    return (_DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().splitlines()


@contextmanager
def _answering(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _health(config: Path, text: str) -> int:
    config.write_text(text)
    command = [sys.executable, str(DEPLOY / "docker" / "healthcheck.py")]
    environment = {**os.environ, "XKSPROXY_CONFIG": str(config)}
    return subprocess.run(command, env=environment, check=False, capture_output=True).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_container_is_as_healthy_as_its_livez(tmp_path: Path, status: int, code: int) -> None:
    with _answering(status) as port:
        assert _health(tmp_path / "config", f'[health]\nlisten = "0.0.0.0:{port}"') == code


def test_a_container_where_nothing_listens_is_not_healthy(tmp_path: Path) -> None:
    assert _health(tmp_path / "config", f'[health]\nlisten = "[::]:{free_port()}"') == 1


def test_without_a_health_listener_nothing_is_asked(tmp_path: Path) -> None:
    assert _health(tmp_path / "config", "[server]") == 0

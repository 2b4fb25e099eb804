"""`xksproxy serve`, before it serves."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_SECONDS, with_free_ports
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.cli import serve as module
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that reach the handler of before."""
    signals: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: signals.append(number))
    yield signals
    signal.signal(signal.SIGHUP, before)


def test_a_sighup_while_the_configuration_is_read_has_no_effect(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: list[int]
) -> None:
    def load(*_: object, **__: object) -> Config:
        signal.raise_signal(signal.SIGHUP)
        raise ConfigError(["it was read to its end"])

    monkeypatch.setattr(module, "load_checked", load)
    monkeypatch.setattr(module, "forbid_core_dumps", lambda: None)
    monkeypatch.setattr(module.MemoryLock, "lock", lambda _: None)

    done = run("serve", "--config", tmp_path / "xksproxy.toml")

    assert done.code == 2
    assert "it was read to its end" in done.err
    assert received == []


@pytest.mark.parametrize(("audit", "refused"), [("", True), ("enabled = false", False), ('file = "log"', False)])
def test_an_audit_log_for_a_closed_standard_output_is_refused(
    environment: DevEnvironment, audit: str, *, refused: bool
) -> None:
    """Each line would be lost, while everything says that it was written."""
    config = environment.directory / "closed-output.toml"
    # Another problem ends it in each case.
    text = environment.config.read_text().replace('hsms = ["softhsm"]', 'hsms = ["unknown"]', 1)
    config.write_text(with_free_ports(text).replace("[audit]\n", f"[audit]\n{audit}\n"))

    done = subprocess.run(
        [sys.executable, "-m", "xksproxy", "serve", "--config", config],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.close(1),
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert done.returncode == 2
    assert "unknown" in done.stderr
    assert ("the audit log goes to standard output, which is closed" in done.stderr) == refused

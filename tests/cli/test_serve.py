"""`xksproxy serve`, before it serves."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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

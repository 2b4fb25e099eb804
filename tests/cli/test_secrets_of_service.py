"""Commands beside a service whose PIN is a systemd credential, which they cannot read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment


@pytest.fixture
def config(environment: DevEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration as install.sh makes it, outside the unit."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    ignored = shutil.ignore_patterns("tokens", "log", "state", "*.partial")
    shutil.copytree(environment.directory, tmp_path / "dev", ignore=ignored)
    (tmp_path / "dev" / "state").mkdir(0o700)
    path = tmp_path / "dev" / "xksproxy.toml"
    text = path.read_text()
    assert '{ file = "pin" }' in text
    path.write_text(text.replace('{ file = "pin" }', '{ credential = "hsm-1-pin" }'))
    return path


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("hsm", "allow-login", "softhsm"), "no PIN of softhsm was refused"),
        (("keys", "disable-version", "demo-key", "7", "--keystore", "dev"), "was never used or prepared"),
        (("keys", "enable-version", "demo-key", "7", "--keystore", "dev"), "is not disabled"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_that_needs_no_pin_does_its_work(
    run: Callable[..., Any], config: Path, arguments: tuple[str, ...], error: str
) -> None:
    done = run(*arguments, "--config", config)

    assert done.code == 1
    assert error in done.err


def test_check_config_warns_of_what_it_could_not_read(run: Callable[..., Any], config: Path) -> None:
    done = run("check-config", "--config", config)

    assert done.code == 0
    assert "warning:" in done.err
    assert "hsm[0].pin: not readable here, so it was not checked" in done.err


def test_a_command_that_needs_the_pin_names_the_wrapper(run: Callable[..., Any], config: Path) -> None:
    done = run("keys", "list", "--keystore", "dev", "--config", config)

    assert done.code == 2
    assert "systemd gives the credential hsm-1-pin to the service only" in done.err
    assert "as-xksproxy" in done.err

"""`xksproxy block` and `unblock`, while no proxy runs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.cli import block_target
from xksproxy.cli.block_target import find_target
from xksproxy.config.errors import ConfigError


@pytest.fixture
def config(environment: DevEnvironment, tmp_path: Path) -> Path:
    """A configuration whose state directory is empty."""
    shutil.copytree(
        environment.directory, tmp_path / "dev", ignore=shutil.ignore_patterns("tokens", "log", "state", "*.partial")
    )
    (tmp_path / "dev" / "state").mkdir(mode=0o700)
    return tmp_path / "dev" / "xksproxy.toml"


def test_unblocking_a_key_store_names_the_keys_that_stay_blocked(run: Callable[..., Any], config: Path) -> None:
    options = ("--config", config, "--keystore", "dev")
    assert run("block", *options, "--key", "demo-key").code == 0

    refused = run("unblock", *options)

    assert refused.code == 1
    assert "the key store dev is not blocked on this machine; nothing was changed" in refused.err
    assert "still blocked: demo-key" in refused.err
    assert run("unblock", *options, "--key", "demo-key").code == 0
    assert "still blocked" not in run("unblock", *options).err


def test_a_block_is_in_the_audit_log_although_its_result_cannot_be_printed(config: Path) -> None:
    program = (sys.executable, "-m", "xksproxy", "block", "--config", config, "--keystore", "dev")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (2, "xksproxy: standard output: No space left on device\n")
    (event,) = (config.parent / "state" / "audit").glob("*.json")
    assert json.loads(event.read_text())["message"] == "block set"


def test_a_key_store_of_a_large_configuration_with_a_mistake_is_blocked(run: Callable[..., Any], config: Path) -> None:
    comments = "# 64 characters of a comment for each of many key stores, 1.3 MB\n" * 20_000
    config.write_text(f"{config.read_text()}{comments}\n[wrong]\n")

    assert run("block", "--config", config, "--keystore", "dev").code == 0


@pytest.mark.parametrize(
    "end", ["[logg", '[logging]\nlevel = "in', "[[keystore]]\nkeys = [\n  {id =", "this is not finished"]
)
@pytest.mark.parametrize("option", [("--keystore", "dev"), ("--all",), ("--keystore", "dev", "--key", "demo-key")])
def test_a_block_is_made_with_a_configuration_that_is_half_written(
    run: Callable[..., Any], config: Path, end: str, option: tuple[str, ...]
) -> None:
    config.write_text(f"{config.read_text()}\n{end}")

    done = run("block", "--config", config, *option)

    assert done.code == 0
    assert f"{config} has errors; using the state directory {config.parent / 'state'}" in done.err
    assert (config.parent / "state" / ("blocks.json" if "--all" in option else "blocks-dev.json")).exists()


def test_a_state_directory_is_not_guessed_where_its_line_is_damaged(run: Callable[..., Any], config: Path) -> None:
    config.write_text(config.read_text().replace('directory = "state"', 'directory = "sta'))

    refused = run("block", "--config", config, "--all")

    assert refused.code == 2
    assert "to block nevertheless: xksproxy block --state DIRECTORY" in refused.err
    assert not any((config.parent / "state").iterdir())


def test_the_default_directory_is_used_only_if_no_damaged_line_may_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = tmp_path / "default"
    default.mkdir()
    monkeypatch.setattr(block_target, "State", lambda: SimpleNamespace(directory=str(default)))
    path = tmp_path / "xksproxy.toml"

    path.write_text("[state]\n[logg")
    assert find_target(path, None, None, all_stores=True).state_directory == default
    path.write_text('[state]\ndirectory = "/srv/st\n[logging]')
    with pytest.raises(ConfigError, match="--state DIRECTORY"):
        find_target(path, None, None, all_stores=True)


def test_a_key_store_that_a_half_written_configuration_does_not_name_is_refused(
    run: Callable[..., Any], config: Path
) -> None:
    config.write_text(f"{config.read_text()}\n[logg")

    refused = run("block", "--config", config, "--keystore", "unknown")

    assert refused.code == 2
    assert "no key store has the name unknown; expected one of: dev" in refused.err

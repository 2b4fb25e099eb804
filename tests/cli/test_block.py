"""`xksproxy block` and `unblock`, while no proxy runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment


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


def test_a_key_store_of_a_large_configuration_with_a_mistake_is_blocked(run: Callable[..., Any], config: Path) -> None:
    comments = "# 64 characters of a comment for each of many key stores, 1.3 MB\n" * 20_000
    config.write_text(f"{config.read_text()}{comments}\n[wrong]\n")

    assert run("block", "--config", config, "--keystore", "dev").code == 0

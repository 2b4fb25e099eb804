"""`xksproxy state`, by the steps of its page."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from server_support import OwnProxy, Wire, encrypt_body, key_path, signed_post, stop
from support import Proxy, eventually, serve, wait_for_port, wait_until_serving, with_free_ports

from xksproxy.server.followers import wait_for_workers

PAGE = Path(__file__).parents[2] / "docs" / "state.md"


@pytest.fixture
def own_proxy(environment: Any, tmp_path: Path) -> Any:
    with OwnProxy(environment, tmp_path) as made:
        yield made


@contextmanager
def running(config: Path, log: Path) -> Iterator[None]:
    """A proxy that may have no HSM."""
    process = serve(config, log)
    state = config.with_name("state")
    try:
        eventually(lambda: wait_for_workers(state, lambda _: True, 0).following)
        yield
    finally:
        process.terminate()
        process.wait(60)


def encrypts(proxy: Proxy, key_id: str) -> int:
    with Wire(proxy) as wire:
        return wire.ask(signed_post(proxy, key_path("encrypt", key_id), encrypt_body(b"text"))).status


def test_the_steps_of_the_page_bring_back_what_was_closed(
    own_proxy: OwnProxy, spawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = own_proxy.start()
    config, state = proxy.environment.config, proxy.environment.directory / "state"
    monkeypatch.setenv("XKSPROXY_CONFIG", str(config))
    assert spawn("block", "--keystore", "dev", "--key", "encrypt-only-key", cwd=tmp_path).code == 0
    assert encrypts(proxy, "demo-key") == 200
    commands = re.findall(r"(?m)^\$ (.*)$", PAGE.read_text("utf-8"))
    assert len(commands) > 7

    for command in commands:
        program, *arguments = command.split()
        match program, arguments:
            case "systemctl", ["stop", _]:
                running = spawn("state", "restore", "state-backup.json", cwd=tmp_path)
                assert running.code == 2
                assert "stop it first" in running.err
                assert stop(proxy) == 0
                shutil.rmtree(state)
                state.mkdir(0o700)
            case "systemctl", _:
                process = serve(config, proxy.log)
                own_proxy.adopt(process)
                wait_for_port(proxy.port, process)
                wait_until_serving(config, process)
            case _, ["keys", *_]:
                done = spawn(*arguments, "--keystore", "dev", cwd=tmp_path)
                assert (done.code, done.err) == (0, "")
            case _:
                done = spawn(*arguments, cwd=tmp_path)
                assert (done.code, done.err) == (0, ""), command

    assert encrypts(proxy, "encrypt-only-key") == 400
    assert encrypts(proxy, "demo-key") == 200
    shown = json.loads(spawn("keys", "show", "demo-key", "--keystore", "dev", "--json", cwd=tmp_path).text)
    primary = next(version["version"] for version in shown["versions"] if version["role"] == "primary")
    assert primary > 10
    assert shown["versions"][0]["encryptions"] > 7_200


def test_a_backup_is_private_and_replaces_no_file(spawn: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o700)
    options = ("--state", tmp_path / "state")

    made = spawn("state", "backup", *options, "--out", tmp_path / "backup.json")

    assert made.code == 0
    assert (tmp_path / "backup.json").stat().st_mode & 0o777 == 0o600
    assert spawn("state", "backup", *options, "--out", tmp_path / "backup.json").code == 2
    (tmp_path / "backup.json").write_text("{}")
    assert spawn("state", "restore", *options, tmp_path / "backup.json").code == 2
    assert spawn("state", "restore", "--state", tmp_path / "missing", tmp_path / "backup.json").code == 2


def test_a_backup_that_is_no_regular_file_or_too_large_is_refused_at_once(
    spawn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(0o700)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**34)

    for name, reason in (("pipe", "named pipe"), ("large", "more than"), ("/dev/zero", "a device"), ("no", "No such")):
        done = spawn("state", "restore", "--state", tmp_path / "state", tmp_path / name)
        assert done.code == 2
        assert reason in done.err


def test_a_damaged_backup_is_refused_with_the_name_of_its_file(spawn: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o700)
    backup = tmp_path / "backup.json"
    backup.write_text('{"taken_at": 1, "machine": "m", "files": {"blocks-dev.json": {"entries": 7}}}')

    done = spawn("state", "restore", "--state", tmp_path / "state", backup)

    assert done.code == 2
    assert f"{backup}: the backup is damaged: blocks-dev.json: Expected `object`" in done.err


@pytest.mark.parametrize("rate", ["nan", "inf"])
def test_a_number_that_is_not_finite_is_refused(spawn: Callable[..., Any], tmp_path: Path, rate: str) -> None:
    (tmp_path / "state").mkdir(0o700)

    done = spawn("state", "accept", "--state", tmp_path / "state", "--encryptions-per-second", rate)

    assert done.code == 2
    assert f"Invalid value for '--encryptions-per-second': {rate} is not a finite number." in done.err


def test_check_names_what_is_lost(spawn: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o700)
    assert spawn("block", "--state", tmp_path / "state", "--all").code == 0
    assert spawn("state", "check", "--state", tmp_path / "state").code == 0
    (tmp_path / "state" / "blocks.json").unlink()

    done = spawn("state", "check", "--state", tmp_path / "state")

    assert done.code == 1
    assert "blocks.json: it was deleted" in done.err


@pytest.mark.parametrize("runs", [False, True])
def test_nothing_is_opened_while_no_token_that_is_a_witness_can_be_read(
    environment: Any, spawn: Callable[..., Any], tmp_path: Path, *, runs: bool
) -> None:
    home = tmp_path / "dev"
    shutil.copytree(environment.directory, home, ignore=shutil.ignore_patterns("tokens", "log", "state", "*.partial"))
    config = home / "xksproxy.toml"
    text = with_free_ports(config.read_text()).replace('directory = "state"', 'directory = "state"\nwitness = "token"')
    config.write_text(text.replace('token = "', 'token = "not-there-'))
    (home / "state").mkdir(0o700)
    block = ("--keystore", "dev", "--config", config)
    assert spawn("block", *block).code == 0

    with running(config, tmp_path / "log") if runs else nullcontext():
        refused = spawn("unblock", *block)
        checked = spawn("state", "check", "--config", config)
    config.write_text(text)
    opened = spawn("unblock", *block)

    assert (refused.code, checked.code) == (2, 1)
    for done in (refused, checked):
        assert "no token can be read, and they are witnesses of the state directory: softhsm: " in done.err
    assert opened.code == 0

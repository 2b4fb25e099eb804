"""`xksproxy check-config`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xksproxy.devkit.environment import DevEnvironment


@pytest.fixture
def copy(environment: DevEnvironment, tmp_path: Path) -> Path:
    """The configuration of the tests with its files, to be broken."""
    shutil.copytree(environment.directory, tmp_path / "dev", ignore=shutil.ignore_patterns("tokens", "log"))
    return tmp_path / "dev" / "xksproxy.toml"


def _change(config: Path, old: str, new: str) -> None:
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def test_a_good_configuration_is_ok(run: Callable[..., Any], copy: Path) -> None:
    done = run("check-config", "--config", copy)

    assert (done.code, done.err) == (0, "")
    assert done.text.startswith(f"{copy}: ok; the HSM was not asked")
    assert "key stores: dev" in done.text
    assert "HSMs: softhsm" in done.text


def test_json_says_so_too(run: Callable[..., Any], copy: Path, environment: DevEnvironment) -> None:
    done = run("check-config", "--config", copy, "--json")

    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.text)
    assert facts.pop("keystores")[0] == "dev"
    assert facts == {"ok": True, "listen": f"127.0.0.1:{environment.port}", "hsms": ["softhsm"], "warnings": []}


def test_the_file_can_be_named_by_a_variable(
    run: Callable[..., Any], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XKSPROXY_CONFIG", str(copy))

    assert run("check-config").code == 0


def test_every_problem_is_told_in_one_go_with_exit_code_1(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, '"/dev"', '"/dev/"')
    _change(copy, "tls/server.pem", "tls/none.pem")
    _change(copy, 'id = "demo-key"', 'id = ".."')

    done = run("check-config", "--config", copy)

    assert (done.code, done.out) == (1, b"")
    first, *problems = done.err.splitlines()
    assert first == "xksproxy: the configuration cannot be used:"
    assert len(problems) >= 3
    assert all(problem.startswith(f"  {copy}: ") for problem in problems)
    for place in ("server.tls.certificate", "keystore[0].uri_path_prefix", "keystore[0].keys[0].id"):
        assert f" {place}: " in done.err


def test_json_lists_the_problems_on_standard_output(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, "[server]", "[server]\nwrokers = 2")

    done = run("check-config", "--config", copy, "--json")

    assert (done.code, done.err) == (1, "")
    problems = [f"{copy}: server.wrokers: unknown key; did you mean workers?"]
    assert json.loads(done.text) == {"ok": False, "problems": problems}


@pytest.mark.parametrize("name", ["tls/server.pem", "tls/server-key.pem"])
def test_a_certificate_or_key_that_does_not_load_is_found(run: Callable[..., Any], copy: Path, name: str) -> None:
    (copy.parent / name).write_text("nonsense")

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert f"  {copy}: server.tls: certificate and private_key do not load" in done.err


def test_a_key_that_does_not_fit_the_certificate_is_found(run: Callable[..., Any], copy: Path) -> None:
    shutil.copy(copy.parent / "tls" / "ca-key.pem", copy.parent / "tls" / "server-key.pem")

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert "do not load" in done.err


def test_a_client_ca_that_does_not_load_is_found(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, "[server.tls]", '[server.tls]\nclient_ca = "pin"\nclient_names = ["name"]')

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert f"  {copy}: server.tls.client_ca: " in done.err


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"\xff\x00", b"[[[", b"server = 1", b"a = " + b"[" * 20_000, b"hsm = [[]]\nserver = {}"],
)
def test_nonsense_in_the_place_of_a_configuration_is_refused(
    run: Callable[..., Any], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.toml").write_bytes(content)

    done = run("check-config", "--config", tmp_path / "x.toml")

    assert done.code == 1
    assert f"  {tmp_path / 'x.toml'}: " in done.err


@pytest.mark.parametrize("name", ["none.toml", "none/x.toml", "n" * 300, "\udcff.toml"])
def test_a_file_that_is_not_there_is_named(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    done = run("check-config", "--config", tmp_path / name)

    assert done.code in (1, 2)
    assert done.err.startswith("xksproxy: ")
    assert str(tmp_path) in done.err


def test_a_directory_in_the_place_of_the_file_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("check-config", "--config", tmp_path)

    assert done.code == 2
    assert "is a directory" in done.err


def test_an_inline_pin_is_never_shown(run: Callable[..., Any], copy: Path) -> None:
    pin = "sesame-4711"
    _change(copy, '{ file = "pin" }', f'"{pin}"')
    copy.chmod(0o644)

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert "hsm[0].pin" in done.err
    assert pin not in done.err

"""A throw-away SoftHSM2 token."""

import os
import subprocess
from pathlib import Path

import pytest
from xksproxy_tools.development.softhsm import SoftHsmError, find_module, make_token, write_configuration


def _fake_util(directory: Path, script: str) -> Path:
    """A directory for PATH with another softhsm2-util."""
    directory.mkdir()
    util = directory / "softhsm2-util"
    util.write_text(f"#!/bin/sh\n{script}\n")
    util.chmod(0o755)
    return directory


def test_a_token_is_initialised_below_the_directory(tmp_path: Path) -> None:
    token = make_token(tmp_path, label="a label", pin="1234567890", so_pin="0987654321")

    shown = subprocess.run(
        ["softhsm2-util", "--show-slots"],
        env={**os.environ, "SOFTHSM2_CONF": str(token.configuration)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "a label" in shown
    assert token.module.is_file()
    assert token.configuration.parent == tmp_path
    assert list((tmp_path / "tokens").iterdir())
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o700


def test_no_file_of_a_token_is_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_token(tmp_path, label="a label", pin="1234567890", so_pin="0987654321")
    finally:
        os.umask(before)

    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "tokens").rglob("*"))


def test_the_configuration_names_the_directory_of_the_tokens(tmp_path: Path) -> None:
    write_configuration(tmp_path / "softhsm2.conf", Path("/var/lib/tokens"))

    lines = (tmp_path / "softhsm2.conf").read_text().splitlines()
    assert "directories.tokendir = /var/lib/tokens" in lines
    assert "objectstore.backend = file" in lines


def test_where_softhsm2_is_missing_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SoftHsmError, match="apt-get install softhsm2"):
        find_module()
    with pytest.raises(SoftHsmError, match="apt-get install softhsm2"):
        make_token(tmp_path, label="a", pin="1234", so_pin="1234")
    assert list(tmp_path.iterdir()) == []


def test_what_softhsm2_says_when_it_refuses_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(_fake_util(tmp_path / "bin", "echo 'the disk is full' >&2; exit 3")))

    with pytest.raises(SoftHsmError, match=r"^softhsm2-util cannot create a token: the disk is full$"):
        make_token(tmp_path, label="a", pin="1234567890", so_pin="0987654321")


def test_what_softhsm2_says_on_its_output_serves_where_it_is_silent_on_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(_fake_util(tmp_path / "bin", "echo 'no slot'; exit 1")))

    with pytest.raises(SoftHsmError, match=r"^softhsm2-util cannot create a token: no slot$"):
        make_token(tmp_path, label="a", pin="1234567890", so_pin="0987654321")

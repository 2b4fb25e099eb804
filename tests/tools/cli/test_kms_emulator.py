"""``xksproxy kms-emulator``: options that it refuses. tests/tools/kms_emulator tests its operations."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "4599"), "expected ADDRESS:PORT, such as 127.0.0.1:4599"),
        (("--listen", "127.0.0.1:65536"), "expected ADDRESS:PORT"),
        (("--listen", "0.0.0.0:0"), "add --allow-remote to permit that"),
        (("--listen", "[::]:0"), "add --allow-remote to permit that"),
        (("--listen", "kms.example.com:0"), "add --allow-remote to permit that"),
        (("--region", "Europe"), "a Region has the form of eu-west-1"),
        (("--account", "1234"), "an account has twelve digits"),
        (("--caller", "alice"), "expected ACCESS_KEY_ID=ARN"),
        (("--cluster", "cluster-2a3b4c5d6e7"), "expected ID=MODULE:TOKEN"),
        (("--resolve", "localhost"), "--resolve"),
        (("--requests-per-second", "0"), "--requests-per-second"),
    ],
)
def test_invalid_options_are_refused_with_the_reason(
    run: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run("kms-emulator", "--state", tmp_path / "state", *arguments)

    assert (done.code, done.out) == (2, b"")
    assert words in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_state_file_that_others_can_read_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "state").touch(0o644)
    (tmp_path / "state").chmod(0o644)

    done = run("kms-emulator", "--listen", "127.0.0.1:0", "--state", tmp_path / "state")

    assert (done.code, done.out) == (2, b"")
    assert (
        done.err == f"xksproxy: {tmp_path}/state: its mode is 0644; expected 0600, because it contains key material\n"
    )


def test_a_file_without_a_ca_certificate_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("kms-emulator", "--listen", "127.0.0.1:0", "--state", tmp_path / "state", "--ca", __file__)

    assert (done.code, done.out) == (2, b"")
    assert f"{__file__}: " in done.err


def test_a_port_in_use_is_reported(run: Callable[..., Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        done = run("kms-emulator", "--listen", f"127.0.0.1:{port}", "--state", tmp_path / "state")

    assert (done.code, done.out) == (2, b"")
    assert f"127.0.0.1:{port}: Address already in use" in done.err

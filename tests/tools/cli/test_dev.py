"""`xksproxy dev`."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_SECONDS, program, two_free_ports, wait_for_port, wait_until_serving


def _introduction(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("The file for the KMS console"):
            return "".join(lines)
    raise AssertionError("".join(lines))


def _start(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program(), "dev", "--dir", str(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _commands(introduction: str) -> list[str]:
    """The indented commands for another terminal."""
    return [
        paragraph
        for paragraph in introduction.split("\n\n")
        if paragraph.startswith("  ") and "xksproxy dev:" not in paragraph
    ]


@pytest.mark.slow
def test_a_new_environment_serves_the_printed_commands_and_a_second_start_keeps_it(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = ["xksproxy", "serve", "--config", str(tmp_path / "dev" / "xksproxy.toml")]
    port = two_free_ports()  # the second is that of the admin listener
    with _start(tmp_path / "dev", "--port", str(port)) as process:
        try:
            introduction = _introduction(process)
            wait_for_port(port, process)
            wait_until_serving(tmp_path / "dev" / "xksproxy.toml", process)
            source, curl, call = _commands(introduction)
            script = f"{source}\n{curl}\necho\n{call}"
            done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_SECONDS)

    assert introduction.startswith(f"xksproxy dev: made {tmp_path / 'dev'}\n")
    sealed, opened = done.stdout.splitlines()
    assert json.loads(sealed)["ciphertext"], done.stderr
    assert json.loads(opened) == {"plaintext": "SGVsbG8gV29ybGQh"}
    assert process.returncode == 0

    # A second start keeps the directory and the port.
    with monkeypatch.context() as patch:
        patch.setattr("os.execv", lambda _, command: sys.exit(command[-4:] != serve))
        again = run("dev", "--dir", tmp_path / "dev")

    assert (again.code, again.err) == (0, "")
    assert again.text == introduction.replace("dev: made", "dev: using") + "\n"


@pytest.mark.parametrize(
    ("softhsm2_util", "message"),
    [
        ("exit 1", "softhsm2-util cannot create a token: \n"),
        ("echo 'no slot'; exit 1", "softhsm2-util cannot create a token: no slot\n"),
        ("echo 'the disk is full' >&2; exit 3", "softhsm2-util cannot create a token: the disk is full\n"),
        (None, "SoftHSM2 is not installed; on Debian and Ubuntu: apt-get install softhsm2\n"),
    ],
)
def test_a_failure_of_softhsm2_is_reported_in_one_line_and_leaves_nothing_behind(
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    softhsm2_util: str | None,
    message: str,
) -> None:
    (tmp_path / "bin").mkdir()
    if softhsm2_util is not None:
        (tmp_path / "bin" / "softhsm2-util").write_text(f"#!/bin/sh\n{softhsm2_util}\n")
        (tmp_path / "bin" / "softhsm2-util").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    done = run("dev", "--dir", tmp_path / "dev")

    assert (done.code, done.out, done.err) == (2, b"", f"xksproxy: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_directory_with_other_content_is_refused_and_left_unchanged(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")

    done = run("dev", "--dir", tmp_path)

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith(
        f"xksproxy: {tmp_path}: it is not empty and holds no xksproxy.toml; choose another --dir"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_directory_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")

    for directory in (tmp_path / "file", tmp_path / "file" / "dev"):
        done = run("dev", "--dir", directory)

        assert (done.code, done.out) == (2, b"")
        assert str(tmp_path / "file") in done.err

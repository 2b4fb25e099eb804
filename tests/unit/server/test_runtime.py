"""A directory in memory that goes with the service."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from xksproxy.server import runtime

_PROGRAM = """
import sys, time
from xksproxy.server.runtime import make_runtime_directory
print(make_runtime_directory(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start(tmp_path: Path) -> object:
    def run() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    return run


def test_it_is_private_and_goes_with_its_process(start: object) -> None:
    process, directory = start()  # type: ignore[operator]
    assert directory.stat().st_mode & 0o777 == 0o700

    process.communicate("\n")

    assert not directory.exists()


def test_what_a_killed_service_left_is_removed_and_what_is_in_use_is_not(start: object) -> None:
    (killed, left), (living, used) = start(), start()  # type: ignore[operator]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert left.exists()

    third, directory = start()  # type: ignore[operator]

    assert not left.exists()
    assert used.exists()
    assert directory.exists()
    for process in (living, third):
        process.communicate("\n")


def test_where_no_directory_can_be_made_another_place_is_used(start: object, tmp_path: Path) -> None:
    tmp_path.rmdir()

    process, directory = start()  # type: ignore[operator]

    assert directory.exists()
    assert directory.parent != tmp_path
    process.communicate("\n")


def test_where_there_is_no_place_at_all_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(runtime, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "gettempdir", find_none)

    with pytest.raises(OSError, match=r"none and the directories for temporary files are missing.* set RUNTIME_DIREC"):
        runtime.make_runtime_directory()

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"No such file or directory: '.*missing/xksproxy-.*; mount "):
        runtime.make_runtime_directory()


def test_a_worker_that_starts_after_its_removal_notices_that(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    assert runtime.RuntimeCheck(directory).problem == ""

    directory.rmdir()

    assert "was removed while the proxy runs" in runtime.RuntimeCheck(directory).problem

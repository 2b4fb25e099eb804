"""`python -m xksproxy_tools.development DIRECTORY`: a token without a proxy."""

import subprocess
import sys
from pathlib import Path

import pytest


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xksproxy_tools.development", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_makes_a_token_and_says_how_to_reach_it(tmp_path: Path) -> None:
    done = _run(str(tmp_path / "token"))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"export SOFTHSM2_CONF={tmp_path / 'token' / 'softhsm2.conf'}\n")
    assert (tmp_path / "token" / "pin").read_text().strip() not in done.stdout
    assert list((tmp_path / "token" / "tokens").iterdir())


@pytest.mark.parametrize("name", ["", "none/token"])
def test_a_directory_that_is_there_or_cannot_be_made_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    done = _run(str(tmp_path / name))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("make-token: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""`python -m xksproxy_tools.development DIRECTORY`: a token without a proxy."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

_MODULE = "xksproxy_tools.development"


def test_it_makes_a_token_and_prints_the_variable_that_leads_to_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", _MODULE, str(tmp_path / "token")]  # a process can initialise PKCS#11 once
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"export SOFTHSM2_CONF={tmp_path / 'token' / 'softhsm2.conf'}\n")
    assert (tmp_path / "token" / "pin").read_text().strip() not in done.stdout
    assert list((tmp_path / "token" / "tokens").iterdir())


@pytest.mark.parametrize("name", ["", "none/token"])
def test_a_directory_that_exists_or_cannot_be_made_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [_MODULE, str(tmp_path / name)])

    with pytest.raises(SystemExit, match=r"^make-token: .+$"):
        runpy.run_module(_MODULE, run_name="__main__")

    assert list(tmp_path.iterdir()) == []

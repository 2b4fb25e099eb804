"""Fixtures of the tests of deploy/."""

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from deploy_support import TOP, pip


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A directory that is made once, although several processes run the tests."""
    parent = factory.getbasetemp()
    directory = (parent.parent if parent.name.startswith("popen-") else parent) / name
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "made").exists():
            directory.mkdir(exist_ok=True)
            make(directory)
            (directory / "made").touch()
    return directory


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""

    def make(directory: Path) -> None:
        pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(TOP))

    (made,) = _once(tmp_path_factory, "wheel", make).glob("xksproxy-*.whl")
    return made


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the versions that requirements.lock pins, and nothing else."""

    def make(directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
        into = ["--python", str(directory / "bin" / "python")]
        pip(*into, "install", "--no-compile", "--constraint", str(TOP / "requirements.lock"), str(wheel))

    return _once(tmp_path_factory, "installed", make)

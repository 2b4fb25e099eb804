"""Fixtures that run the command line: in this process if it uses no HSM, else in a process of its own."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import run_command
from support import free_port

from xksproxy.cli.main import main

_VARIABLES = (
    "XKSPROXY_CONFIG",
    "XKS_PROXY_HOST",
    "URI_PREFIX",
    "SIGV4_ACCESS_KEY_ID",
    "SIGV4_SECRET_ACCESS_KEY",
    "REGION",
    "KEY_ID",
    "ENCRYPT_ONLY_KEY_ID",
    "DECRYPT_ONLY_KEY_ID",
    "IMPOTENT_KEY_ID",
    "SECURE",
)


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell that runs the tests may have sourced a client.env."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Run a command in this process. A traceback fails the test, since nothing catches the exception."""

    def run_in_process(*arguments: str | Path, stdin: bytes = b"") -> Finished:
        out, err = io.BytesIO(), io.BytesIO()
        streams = {
            "stdin": io.TextIOWrapper(io.BytesIO(stdin), "utf-8"),
            "stdout": io.TextIOWrapper(out, "utf-8"),
            "stderr": io.TextIOWrapper(err, "utf-8", errors="backslashreplace"),
        }
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["xksproxy", *map(str, arguments)])
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as caught:
                main()
            streams["stdout"].flush()
            streams["stderr"].flush()
        code = caught.value.code
        assert isinstance(code, int)
        return Finished(code, out.getvalue(), err.getvalue().decode())

    return run_in_process


@pytest.fixture
def spawn() -> Callable[..., Finished]:
    """Run a command in a process of its own, as the HSM wants it."""

    return run_apart


def run_apart(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Finished:
    """Run a command in a process of its own. A traceback fails the test."""
    done = run_command(*arguments, cwd=cwd, environment={**os.environ, **environment})
    return Finished(done.returncode, done.stdout.encode(), done.stderr)


@pytest.fixture
def into_closed_pipe() -> Callable[..., tuple[int, str]]:
    """Run a command whose reader has gone, as in `… | head -0`: its exit code and standard error."""

    def run_into_closed_pipe(*arguments: str | Path) -> tuple[int, str]:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "xksproxy", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        finally:
            os.close(writer)
        return done.returncode, done.stderr

    return run_into_closed_pipe


def with_free_ports(config: str) -> str:
    """The text of a configuration with ports that nobody uses, while the proxy of the tests may use its own."""
    return re.sub(r"127\.0\.0\.1:\d+", lambda _: f"127.0.0.1:{free_port()}", config)

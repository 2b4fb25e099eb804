"""``audit verify`` ends, whatever it is given."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.secret import Secret
from xksproxy.telemetry.chain import Chain

_KEY = "k" * 64


@pytest.fixture
def chained(environment: DevEnvironment, tmp_path: Path) -> Path:
    """A configuration with a chained audit log."""
    (tmp_path / "audit-key").write_text(_KEY)
    (tmp_path / "audit-key").chmod(0o600)
    audit = f'[audit]\nchain = true\nkey = {{ file = "{tmp_path / "audit-key"}" }}\n'
    config = tmp_path / "xksproxy.toml"
    config.write_text(re.sub(r"(?ms)^\[audit\].*?^(?=\[|\Z)", audit, environment.config.read_text()))
    return config


@pytest.mark.parametrize("copy", [(), ("--copy",)])
@pytest.mark.parametrize("kind", ["a named pipe (FIFO)", "a device"])
def test_what_may_have_no_end_is_refused(
    run: Callable[..., Any], chained: Path, tmp_path: Path, kind: str, copy: tuple[str, ...]
) -> None:
    log = tmp_path / "audit.log"
    if kind == "a device":
        log.symlink_to("/dev/zero")
    else:
        os.mkfifo(log)

    done = run("audit", "verify", *copy, "--config", chained, log)

    assert done.code == 2
    assert f"{log}: it is {kind}; expected a regular file, or a pipe as /dev/stdin" in done.err


def test_a_log_of_one_endless_line_is_damaged(run: Callable[..., Any], chained: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_bytes(Chain(Secret(_KEY)).next_line({"message": "a"}).encode() + b"\n")
    os.truncate(log, 20_000_000)

    done = run("audit", "verify", "--config", chained, log)

    assert done.code == 1
    assert "1 lines, numbers 0 to 0" in done.text
    assert "line 2: damaged: it has more than 1048576 bytes" in done.err


def test_a_log_may_come_from_a_pipe_as_standard_input(chained: Path) -> None:
    line = Chain(Secret(_KEY)).next_line({"message": "a"}).encode() + b"\n"
    command = [sys.executable, "-m", "xksproxy", "audit", "verify", "--config", chained, "/dev/stdin"]

    done = subprocess.run(command, input=line, capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1 lines, numbers 0 to 0" in done.stdout

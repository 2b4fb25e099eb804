"""The command ``xksproxy`` in processes that :mod:`command_server` forks.

As a program, with the name of a server and arguments, it runs a command of that server with its own standard streams.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_SERVER = Path(__file__).with_name("command_server.py")


class Command:
    """A running command, with what the tests use of :class:`subprocess.Popen`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self.returncode: int | None = None
        self.pid = self._read_number(None)

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        if self.returncode is None:
            self.returncode = self._read_number(timeout)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _read_number(self, timeout: float | None) -> int:
        self._connection.settimeout(timeout)
        while b"\n" not in self._received:
            try:
                data = self._connection.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("xksproxy", timeout or 0) from None
            if not data:
                raise AssertionError("the process that starts the commands has failed")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return int(line)


def start_command(
    arguments: Sequence[str | Path],
    out: IO[bytes],
    err: IO[bytes],
    *,
    into: IO[bytes] | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    deadlines: tuple[int, int] | None = None,
    server: str = "",
) -> Command:
    """Start a command, with an empty standard input unless one is given.

    ``deadlines`` are those of :mod:`long_deadline`. ``server`` is the address of another server than that of the tests.
    """
    request = {
        "arguments": [*map(str, arguments)],
        "cwd": str(cwd or Path.cwd()),
        "environment": dict(os.environ if environment is None else environment),
        "deadlines": deadlines,
    }
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(server or _server())
    with Path(os.devnull).open("rb") as nothing:
        descriptors = [(into or nothing).fileno(), out.fileno(), err.fileno()]
        socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
    return Command(connection)


def run_command(
    *arguments: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, and return its exit code and output. A traceback fails the test."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = start_command(arguments, out, err, cwd=cwd, environment=environment).wait()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    assert "Traceback" not in texts[1], texts[1]
    return subprocess.CompletedProcess([*arguments], code, *texts)


@functools.cache
def _server() -> str:
    """The address of the server of this process, which ends with it."""
    address = f"\0xksproxy-tests-{os.getpid()}"
    process = start_server(_SERVER, address.removeprefix("\0"))
    atexit.register(process.kill)
    return address


def start_server(*command: str | Path) -> subprocess.Popen[bytes]:
    """Start an interpreter that serves commands, and wait until it does."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


if __name__ == "__main__":
    _streams = (sys.stdout.buffer, sys.stderr.buffer)
    sys.exit(start_command(sys.argv[2:], *_streams, into=sys.stdin.buffer, server=f"\0{sys.argv[1]}").wait())

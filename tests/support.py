"""Waiting, processes, ports and endpoints for the tests."""

import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from commands import Command, start_command
from xksproxy_tools.development.environment import DevEnvironment, admin_port, open_environment

from xksproxy.client.xks import Endpoint
from xksproxy.config.load import load_config
from xksproxy.sigv4.keyring import Credential

REGION = "eu-west-1"

PATIENCE_SECONDS: Final = 60.0
"""So long a test waits for what must come about. It costs only where a test fails, so a busy machine may take it."""

UNHURRIED_MS: Final = 30_000
"""A deadline of requests that no busy machine misses."""

BODY_MS: Final = 1_500
"""The part of it within which a body must arrive: those that tests keep back would cost them all of it."""

_UNHURRIED: Final = Path(__file__).with_name("long_deadline.py")
_TRUE: Final = object()
_reserved: deque[socket.socket] = deque(maxlen=64)

Value = TypeVar("Value")
Process = Command | subprocess.Popen[Any]


def eventually(look: Callable[[], Value], wanted: object = _TRUE, *, seconds: float = PATIENCE_SECONDS) -> Value:
    """Look until what is seen is as ``wanted``, or true where nothing is named, and return it.

    For whatever follows its cause a moment later: lines of logs, metrics, states, processes. The failure tells what was
    seen last.
    """
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if bool(seen) if wanted is _TRUE else seen == wanted:
            return seen
        if time.monotonic() >= end:
            expected = "something true" if wanted is _TRUE else repr(wanted)
            raise AssertionError(f"not within {seconds:.0f} s: {expected}; last seen: {seen!r}")
        time.sleep(0.02)


def remains(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether something that is true stays true for a while; on a slow machine it only looks less often."""
    end = time.monotonic() + seconds
    while condition():
        if time.monotonic() >= end:
            return True
        time.sleep(0.02)
    return False


def lines_with(path: Path, *parts: str) -> list[str]:
    """The lines of a log that hold all of these; a line that is still being written is none yet."""
    *lines, _ = path.read_text(errors="replace").split("\n") if path.exists() else [""]
    return [line for line in lines if all(part in line for part in parts)]


def free_port() -> int:
    """A port for a server that is yet to start, kept free of everybody else until 64 more were asked for.

    It stays bound, not listening, with SO_REUSEADDR, which lets a server that sets it too bind the same port.
    """
    return _reserve(0)


def two_free_ports() -> int:
    """The first of two free ports in a row."""
    while True:
        first = free_port()
        try:
            _reserve(first + 1)
        except OSError:
            continue
        return first


def _reserve(port: int) -> int:
    holder = socket.socket()
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        holder.close()
        raise
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if len(_reserved) == _reserved.maxlen:
        _reserved[0].close()
    _reserved.append(holder)
    return int(holder.getsockname()[1])


def with_free_ports(text: str, *ports: int) -> str:
    """The text of a configuration whose listeners have other ports: those given, in order, and then free ones."""
    wanted = iter(ports)
    return re.sub(
        r'(?m)^listen = "(.*):[0-9]+"$',
        lambda match: f'listen = "{match[1]}:{next(wanted, None) or free_port()}"',
        text,
    )


def wait_for_port(port: int, process: Process) -> None:
    """Until something listens; a process that has ended fails the test with its exit code."""

    def listens() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"the proxy ended with {process.returncode}")
        return is_listening(port)

    eventually(listens)


def is_listening(port: int) -> bool:
    """Whether a server takes connections at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Proxy:
    """A running `xksproxy serve`, its environment, and what a client needs."""

    environment: DevEnvironment
    process: Process
    log: Path
    credential: Credential
    second_credential: Credential
    other_credential: Credential

    @property
    def port(self) -> int:
        return self.environment.port

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.environment.authority)

    def endpoint(self, prefix: str = "/dev", credential: Credential | None = None) -> Endpoint:
        return Endpoint(self.host, prefix, REGION, credential or self.credential)


def make_environment(directory: Path) -> DevEnvironment:
    """What `xksproxy dev` makes, in a process of its own: this one has not initialised PKCS#11 yet."""
    code = "import sys; from pathlib import Path; from xksproxy_tools.development.environment import open_environment; "
    code += "open_environment(Path(sys.argv[1]), None, int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(directory), str(free_port())], check=True)
    environment = open_environment(directory, None, 0)
    text = environment.config.read_text()
    environment.config.write_text(text.replace(f":{admin_port(environment.port)}", f":{free_port()}"))
    return environment


def serve(
    config: Path, log: Path, *, deadline_ms: int | None = UNHURRIED_MS, body_ms: int = BODY_MS, forked: bool = True
) -> Process:
    """`xksproxy serve`. Without ``deadline_ms`` with the bounds of time that it has in production.

    With ``forked`` it is a fork of an interpreter that has imported everything, else it is started as by an operator.
    """
    arguments = ("serve", "--config", str(config))
    with log.open("ab") as output:
        if forked:
            deadlines = None if deadline_ms is None else (deadline_ms, body_ms)
            return start_command(arguments, output, output, deadlines=deadlines)
        return subprocess.Popen([*program(deadline_ms, body_ms), *arguments], stdout=output, stderr=output)


def program(deadline_ms: int | None = UNHURRIED_MS, body_ms: int = BODY_MS) -> list[str]:
    """The command `xksproxy`; requests that it serves have as long as ``deadline_ms``, which may be above its limit."""
    if deadline_ms is None:
        return [sys.executable, "-m", "xksproxy"]
    return [sys.executable, str(_UNHURRIED), str(deadline_ms), str(body_ms)]


def children(pid: int) -> set[int]:
    """The process ids of a process's children: of a master, its workers."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def wait_until_serving(config: Path, process: Process) -> set[int]:
    """The process ids of all workers, once each of them says that it has an HSM for every key store.

    SoftHSM2 fails calls while another process logs in to the same token: wait for this before the first request.
    """
    settings = load_config(config)

    def ready() -> set[int]:
        assert process.poll() is None, f"the proxy ended with {process.returncode}"
        try:
            views = status(settings.admin.listen)["workers"]
        except OSError:  # it does not listen yet, or the worker that was to answer has gone
            return set()
        serving = {view["pid"] for view in views if view["ready"]} & children(process.pid)
        return serving if len(serving) == settings.server.workers else set()

    return eventually(ready)


def status(admin: str) -> dict[str, Any]:
    """What an admin listener tells operators."""
    with urllib.request.urlopen(f"http://{admin}/status", timeout=PATIENCE_SECONDS) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def metrics_text(proxy: Proxy, *, accept: str = "*/*") -> str:
    """What a proxy's admin listener tells Prometheus, in a format that is accepted."""
    # The configuration may be one that cannot be loaded: that is what some tests are about.
    listener = re.search(r'(?m)^\[admin\]\nlisten += "([^"]+)"', proxy.environment.config.read_text())
    assert listener
    request = urllib.request.Request(f"http://{listener[1]}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return answer.read().decode()


@contextmanager
def small_file_system(*, size: int, inodes: int = 1000) -> Iterator[Path]:
    """A file system in memory of so many bytes and files, mounted for the time of the block; needs root."""
    directory = Path(tempfile.mkdtemp(prefix="xksproxy-test-"))
    options = f"size={size},nr_inodes={inodes},mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        yield directory
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)
        directory.rmdir()

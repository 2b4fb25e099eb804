"""The servers that are measured: this proxy, the baseline, the echo server, or another proxy by its URL."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xksproxy_tools.load.plan import Destination

from benchmarks import processes
from benchmarks.tokens import Tokens
from xksproxy.client.target import Target
from xksproxy.config.model import Hsm

REGION: Final = "us-east-1"
PREFIX: Final = "/bench"
_ROOT: Final = Path(__file__).parents[1]
_ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(_ROOT / "tests")}
_READY_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.01
_STOP_SECONDS: Final = 30.0
_OK: Final = 200


class ServerFailed(Exception):
    """A server does not start; the text says where its output is."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its destinations, and its first process, None if that is on another machine."""

    destinations: tuple[Destination, ...]
    pid: int | None
    started_in: float = 0.0
    """Seconds from its start to being ready."""

    admin: int = 0
    """The port of its admin listener; 0 if it has none."""

    def cpu_seconds(self) -> float:
        """Processor time of all its processes."""
        return 0.0 if self.pid is None else processes.cpu_seconds(self.pid)

    def workers(self) -> list[int]:
        """Its worker processes: the children of the first."""
        return [] if self.pid is None else processes.tree(self.pid)[1:]


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings of this proxy that the benchmarks vary. Audit log, metrics and state are always on."""

    keys_on_token: int = 1
    key_ids: tuple[str, ...] = ("key-0000",)
    """The keys that requests use; each must be exposed."""

    exposed: tuple[str, ...] = ("key-*",)
    key_stores: int = 1
    workers: int = 1
    sessions: int = 4
    hsms: tuple[Hsm, ...] = ()
    """Instead of the token with :attr:`keys_on_token`."""

    own_credentials: bool = False
    """Whether each key store has a directory of its own with a copy of the credential."""

    policies: bool = False
    """Whether each key store has the policies in ``policies`` of the server's directory."""

    tls: str = ""
    """Further lines of ``[server.tls]``."""

    audit: str = ""
    """Further lines of ``[audit]``."""


@contextmanager
def proxy(
    tokens: Tokens, home: Path, setting: Setting, *, add: Callable[[Path], None] = lambda _: None
) -> Iterator[Server]:
    """This proxy, in a new directory ``home``. ``add`` adds files to it before the start."""
    home.mkdir(parents=True)
    port, admin = free_port(), free_port()
    config = write_config(tokens, home, setting, port, admin)
    add(home)
    prefixes = [_prefix(number) for number in range(setting.key_stores)]
    destinations = tuple(
        Destination(target(tokens, port, prefix), key_id) for prefix in prefixes for key_id in setting.key_ids
    )
    command = [sys.executable, "-m", "xksproxy", "serve", "--config", str(config)]
    with _running(command, home / "log", lambda: is_ready(admin)) as (pid, seconds):
        yield Server(destinations, pid, seconds, admin)


@contextmanager
def baseline(tokens: Tokens, home: Path, setting: Setting) -> Iterator[Server]:
    """The baseline, on the same token with as many workers and sessions; see :mod:`benchmarks.baseline`."""
    home.mkdir(parents=True)
    port = free_port()
    config = write_config(tokens, home, setting, port, free_port())
    command = [sys.executable, "-m", "benchmarks.baseline", str(config), str(port)]
    with _running(command, home / "log", lambda: _listens(port)) as (pid, seconds):
        yield Server((Destination(target(tokens, port, PREFIX), "key-0000"),), pid, seconds)


@contextmanager
def echo(tokens: Tokens, home: Path) -> Iterator[Server]:
    """A server that does nothing, to measure the load generator."""
    home.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "echo_proxy", str(port), str(home)]
    with _running(command, home / "log", lambda: _listens(port)) as (pid, seconds):
        found = Target("localhost", port, PREFIX, REGION, tokens.credential, home / "ca.pem")
        yield Server((Destination(found, "key-0000"),), pid, seconds)


def target(tokens: Tokens, port: int, prefix: str) -> Target:
    """The target for a key store of a server on this machine."""
    return Target("localhost", port, prefix, REGION, tokens.credential, tokens.authority)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(tokens: Tokens, home: Path, setting: Setting, port: int, admin: int) -> Path:
    """Write the configuration file of a setting."""
    hsms = setting.hsms or (tokens.hsm(setting.keys_on_token, setting.sessions),)
    ids = json.dumps([hsm.id for hsm in hsms])
    stores = "".join(
        _store_text(_credentials(tokens, home, setting, number), number, ids, setting)
        for number in range(setting.key_stores)
    )
    config = home / "xksproxy.toml"
    config.write_text(
        f"""\
[server]
listen = "127.0.0.1:{port}"
workers = {setting.workers}

[server.tls]
certificate = "{tokens.certificate}"
private_key = "{tokens.directory / "server-key.pem"}"
{setting.tls}
{"".join(map(_hsm_text, hsms))}{stores}
[state]
directory = "state"

[admin]
listen = "127.0.0.1:{admin}"

[audit]
file = "audit.log"
{setting.audit}
""",
        "utf-8",
    )
    config.chmod(0o600)
    return config


def _hsm_text(hsm: Hsm) -> str:
    return f"""\
[[hsm]]
id = "{hsm.id}"
module = "{hsm.module}"
token = "{hsm.token}"
pin = "{hsm.pin}"
preset = "softhsm2"
sessions = {hsm.sessions}
environment = {{ SOFTHSM2_CONF = {json.dumps(hsm.environment["SOFTHSM2_CONF"])} }}

"""


def _credentials(tokens: Tokens, home: Path, setting: Setting, number: int) -> Path:
    """The credentials directory of a key store."""
    if not setting.own_credentials:
        return tokens.credentials
    return Path(shutil.copytree(tokens.credentials, home / "credentials" / str(number)))


def _store_text(credentials: Path, number: int, hsms: str, setting: Setting) -> str:
    keys = "".join(f'[[keystore.keys]]\nid = "{key}"\n\n' for key in setting.exposed)
    policies = 'policies = ["policies"]\n' if setting.policies else ""
    return f"""\
[[keystore]]
name = "store-{number}"
uri_path_prefix = "{_prefix(number)}"
hsms = {hsms}
credentials = "{credentials}"
{policies}
{keys}"""


def _prefix(number: int) -> str:
    return f"{PREFIX}-{number}" if number else PREFIX


@contextmanager
def _running(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[tuple[int, float]]:
    """Start a process, and wait until it is ready. Yields its id, and the seconds until it was ready."""
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=_ROOT, env=_ENVIRONMENT)
    try:
        while not ready():
            if process.poll() is not None or time.monotonic() > started + _READY_SECONDS:
                raise ServerFailed(f"{' '.join(command)} is not ready; its output is: {log.read_text()[-2000:]}")
            time.sleep(_POLL_SECONDS)
        yield process.pid, time.monotonic() - started
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(admin: int) -> bool:
    """Whether the proxy with this admin listener says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == _OK
    except OSError:
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

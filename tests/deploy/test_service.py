"""The unit's own command lines, on a wheel in an empty virtual environment, under the unit's own confinement."""

import re
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from deploy_support import TOP, UNIT, Unit, pip
from server_support import Caller, SealedMessage, decoded
from support import PATIENCE_SECONDS, REGION, eventually, lines_with, with_free_ports
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.client.xks import Endpoint, XksClient
from xksproxy.sigv4.keyring import Credential

pytestmark = pytest.mark.slow


@dataclass
class Service:
    """What systemd does with the unit, as far as it goes without systemd."""

    unit: Unit
    installed: Path
    etc: Path
    run: Path

    def command(self, line: str, **variables: str) -> list[str]:
        """A command line of the unit, with this test's directories for /opt/xksproxy and /etc/xksproxy."""
        for there, here in (("/opt/xksproxy/", f"{self.installed}/"), ("/etc/xksproxy/", f"{self.etc}/")):
            line = line.replace(there, here)
        return [re.sub(r"\$(\w+)", lambda match: variables[match[1]], word) for word in shlex.split(line)]

    @property
    def variables(self) -> dict[str, str]:
        """The environment that systemd sets: nothing of the caller's own gets in."""
        watchdog = int(self.unit.one("WatchdogSec")) * 1_000_000
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "CREDENTIALS_DIRECTORY": str(self.run / "credentials"),
            "RUNTIME_DIRECTORY": str(self.run / "runtime"),
            "NOTIFY_SOCKET": str(self.run / "notify"),
            "WATCHDOG_USEC": str(watchdog),
        }

    def load_credentials(self) -> None:
        (self.run / "runtime").mkdir()
        (self.run / "credentials").mkdir()
        for line in self.unit.all("LoadCredential"):
            name, _, source = line.partition(":")
            (source_here,) = self.command(source)
            shutil.copy(source_here, self.run / "credentials" / name)

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        confine = [sys.executable, str(Path(__file__).with_name("confine.py")), str(UNIT)]
        command = [*confine, *self.command(self.unit.one("ExecStart"))]
        support = {"PYTHONPATH": str(TOP / "tests")}  # for confine.py; what it starts is the wheel's own
        with log.open("wb") as output:
            return subprocess.Popen(command, env=self.variables | support, cwd="/", stdout=output, stderr=output)

    def reload(self, pid: int) -> int:
        """ExecReload's command, which systemd gives the variables of the service but no credentials."""
        variables = {**self.variables, "MAINPID": str(pid)}
        del variables["CREDENTIALS_DIRECTORY"]
        command = self.command(self.unit.one("ExecReload"))
        return subprocess.run(command, env=variables, cwd="/", check=False, capture_output=True).returncode


@pytest.fixture
def service(environment: DevEnvironment, installed: Path, tmp_path: Path) -> Iterator[Service]:
    """A configuration below `etc` whose PIN is the unit's credential."""
    etc = tmp_path / "etc"
    shutil.copytree(environment.directory, etc, ignore=shutil.ignore_patterns("tokens", "log", "state"))
    text = with_free_ports((etc / "xksproxy.toml").read_text())
    text = text.replace('pin = { file = "pin" }', 'pin = { credential = "hsm-1-pin" }')
    (etc / "xksproxy.toml").write_text(text)
    (etc / "pin").rename(etc / "hsm-1-pin")
    # The path of a socket has room for 107 bytes, which that of a test's own directory may exceed.
    with tempfile.TemporaryDirectory() as run:
        made = Service(Unit(UNIT), installed, etc, Path(run))
        made.load_credentials()
        yield made


def _client(etc: Path, credential: Credential) -> XksClient:
    environment = DevEnvironment(etc, 0)
    match = re.search(r'(?m)^listen = "127\.0\.0\.1:(\d+)"$', environment.config.read_text())
    assert match
    context = ssl.create_default_context(cafile=environment.authority)
    return XksClient(Endpoint(f"localhost:{match[1]}", "/dev", REGION, credential), context)


def _round_trip(caller: Caller, plaintext: bytes) -> bytes | None:
    """What comes back from an Encrypt and a Decrypt; None where one of them is refused."""
    answer = caller.encrypt("demo-key", plaintext)
    if answer.status == 200:
        answer = caller.decrypt("demo-key", SealedMessage.of(answer))
    return decoded(answer.body["plaintext"]) if answer.status == 200 else None


def _modes(directory: Path) -> set[int]:
    """The modes of all files; one that is written aside may go while one looks."""
    modes = set()
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                modes.add(stat.S_IMODE(status.st_mode))
    return modes


def test_the_wheel_serves_reloads_and_stops_by_the_unit(
    service: Service, tmp_path: Path, request_metadata: dict[str, str]
) -> None:
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(service.variables["NOTIFY_SOCKET"])
        channel.settimeout(PATIENCE_SECONDS)
        process = service.start(log)
        try:
            assert channel.recv(1000).startswith(b"READY=1\n"), log.read_text()

            credential = DevEnvironment(service.etc, 0).credential
            with _client(service.etc, credential) as client:
                caller = Caller(client, request_metadata)
                # It has the deadline of production, which a busy machine may miss, and its second worker may log in.
                eventually(lambda: _round_trip(caller, b"plaintext"), b"plaintext")

            assert _modes(service.etc / "state") == {0o600}

            config = service.etc / "xksproxy.toml"
            config.write_text(config.read_text().replace('id = "impotent-key"', 'id = "impotent-*"'))
            assert service.reload(process.pid) == 0
            assert lines_with(log, "configuration in place")

            config.write_text(config.read_text() + "\n[unknown]\n")
            assert service.reload(process.pid) == 1

            process.send_signal(signal.SIGTERM)
            while (message := channel.recv(1000)) != b"STOPPING=1":
                assert message == b"WATCHDOG=1"
            assert process.wait(int(service.unit.one("TimeoutStopSec"))) == 0
            assert log.read_text().count("configuration read again") == 1
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_without_the_credential_it_says_so_and_leaves(service: Service, tmp_path: Path) -> None:
    (service.run / "credentials" / "hsm-1-pin").unlink()

    process = service.start(tmp_path / "log")

    assert process.wait(PATIENCE_SECONDS) not in (0, -signal.SIGKILL)
    assert "hsm[0].pin" in (tmp_path / "log").read_text()


def test_what_is_installed_is_what_the_lock_pins(installed: Path) -> None:
    installed_versions = pip("--python", str(installed / "bin" / "python"), "freeze", "--exclude", "xksproxy").split()
    pinned = set((TOP / "requirements.lock").read_text().splitlines())

    assert len(installed_versions) > 10
    assert set(installed_versions) <= pinned

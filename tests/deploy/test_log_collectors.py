"""The samples for rsyslog, logrotate and journald, run with Debian's programs, on the path or in .venv/debian."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deploy_support import DEPLOY, TOP
from support import PATIENCE_SECONDS, eventually, free_port, is_listening
from xksproxy_tools.development import certificates

from xksproxy.config.secret import Secret
from xksproxy.telemetry.chain import Chain
from xksproxy.telemetry.chain_copy import verify_copy

pytestmark = pytest.mark.slow

_DEBIAN = TOP / ".venv" / "debian"
_LIBRARIES = _DEBIAN / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
_KEY = Secret("k" * 64)
_NAMES = ("machine", "collector")


def _program(name: str) -> str:
    directories = [
        root / directory
        for root in (Path("/"), _DEBIAN)
        for directory in ("usr/sbin", "lib/systemd", "usr/lib/systemd")
    ]
    path = os.pathsep.join([os.environ["PATH"], *map(str, directories)])
    found = shutil.which(name, path=path)
    assert found, f"{name} is missing; ./dev test fetches it"
    return found


def _environment() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(_LIBRARIES)}


@dataclass
class _Logs:
    """An audit log with two chains that is sent to a collector, all in one directory."""

    directory: Path
    chains: list[Chain] = field(default_factory=lambda: [Chain(_KEY), Chain(_KEY)])
    written: list[str] = field(default_factory=list)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.directory / "log" / "audit.log"

    def write(self, count: int, text: str = "x") -> None:
        """Append so many lines, as the proxy does: the file is opened again if it was renamed."""
        lines = [self.chains[number % 2].next_line({"message": "request", "text": text}) for number in range(count)]
        self.written += lines
        with self.log.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def start(self, name: str) -> None:
        """Start rsyslog with the configuration NAME.conf."""
        command = [_program("rsyslogd"), "-n", "-f", f"{name}.conf", "-i", str(self.directory / f"{name}.pid")]
        modules = _LIBRARIES / "rsyslog"
        if modules.is_dir():
            command += ["-M", str(modules)]
        with (self.directory / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.directory, stdout=output, stderr=output, env=_environment(), start_new_session=True
            )
        self._running[name] = process

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self._running.pop(name)
        process.send_signal(number)
        process.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        for name in [*self._running]:
            self.stop(name, signal.SIGKILL)

    def received(self) -> list[str]:
        """The lines of the collector's file."""
        files = [path for path in (self.directory / "collected").rglob("audit.log") if path.is_file()]
        return [line for path in files for line in path.read_text().splitlines()]

    def missing(self) -> set[str]:
        return {*self.written} - {*self.received()}


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[_Logs]:
    """A collector and a sender, with the samples; only addresses, names and paths are others."""
    authority = certificates.create_authority("CA of the logs")
    (tmp_path / "ca.pem").write_bytes(certificates.certificate_pem(authority.certificate))
    for name in _NAMES:
        certificate, key = certificates.issue(authority, name, hosts=(name,))
        (tmp_path / f"{name}.pem").write_bytes(certificate)
        (tmp_path / f"{name}-key.pem").write_bytes(key)
    port = free_port()
    for directory in ("log", "spool", "collected"):
        (tmp_path / directory).mkdir()
    for name in ("send", "collect"):
        text = (DEPLOY / "rsyslog" / f"xksproxy-{name}.conf").read_text()
        changes = {
            "/etc/rsyslog-tls/": f"{tmp_path}/",
            "/var/log/xksproxy/%": f"{tmp_path}/collected/%",
            "/var/log/xksproxy/": f"{tmp_path}/log/",
            "/var/spool/rsyslog": f"{tmp_path}/spool",
            '"6514"': f'"{port}"',
            'target="logs.example.com"': 'target="127.0.0.1"',
            '["logs.example.com"]': '["collector"]',
            '["proxy-1.example.com", "proxy-2.example.com"]': '["machine"]',
            'action.resumeInterval="5"': 'action.resumeInterval="1"',
        }
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / f"{name}.conf").write_text(f'global(workDirectory="{tmp_path}/spool")\n{text}')
    made = _Logs(tmp_path)
    try:
        made.start("collect")
        eventually(lambda: is_listening(port))
        made.write(10)
        made.start("send")
        yield made
    finally:
        made.end()


def _rotate(logs: _Logs) -> None:
    sample = (DEPLOY / "logrotate" / "xksproxy").read_text().replace("/var/log/xksproxy/", f"{logs.directory}/log/")
    configuration = logs.directory / "logrotate.conf"
    configuration.write_text(sample)
    configuration.chmod(0o600)
    (logs.directory / "log").chmod(0o750)
    command = [_program("logrotate"), "--force", "--state", str(logs.directory / "rotated"), str(configuration)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len([path for path in logs.log.parent.iterdir() if re.fullmatch(r"audit\.log-\d{8}", path.name)]) == 1


def test_no_line_is_lost_by_rotation_and_restarts_and_the_chain_is_verified_at_the_far_end(logs: _Logs) -> None:
    eventually(lambda: not logs.missing())
    logs.write(1, "y" * 100_000)
    logs.write(200)
    logs.stop("collect", signal.SIGKILL)
    logs.write(500)
    _rotate(logs)
    logs.write(500)
    logs.start("collect")
    logs.write(500)
    logs.stop("send")
    logs.write(300)
    logs.start("send")
    logs.write(300)

    eventually(lambda: not logs.missing())

    assert {*logs.received()} == {*logs.written}
    verification = verify_copy([("audit.log", [f"{line}\n".encode() for line in logs.received()])], _KEY)
    assert verification.problems == []
    assert {report.last for report in verification.chains.values()} == {chain._number - 1 for chain in logs.chains}


def test_the_members_of_a_line_become_fields_of_the_journal(tmp_path: Path) -> None:
    line = Chain(_KEY).next_line(
        {
            "time": "2026-11-24T00:29:01.820+00:00",
            "keystore": "payments",
            "hsms": ["a", "b"],
            "request_metadata": {"kmsRequestId": "94de0ef9-8faa-4e34-ac69-0704d99268a4"},
            "reason": "two\nlines",
        }
    )
    (tmp_path / "audit.log").write_text(f"{line}\n")
    journal = tmp_path / "audit.journal"
    jq = [
        "jq",
        "--raw-input",
        "--join-output",
        "--from-file",
        DEPLOY / "journald" / "fields.jq",
        tmp_path / "audit.log",
    ]
    entries = subprocess.run(jq, stdout=subprocess.PIPE, check=True).stdout

    remote = [_program("systemd-journal-remote"), "--output", journal, "-"]
    subprocess.run(remote, input=entries, env=_environment(), check=True, capture_output=True)

    match = "XKSPROXY_META_KMSREQUESTID=94de0ef9-8faa-4e34-ac69-0704d99268a4"
    found = subprocess.run(["journalctl", "--file", journal, match, "-o", "json"], stdout=subprocess.PIPE, check=True)
    entry = json.loads(found.stdout)
    assert entry["MESSAGE"] == line
    assert entry["__REALTIME_TIMESTAMP"] == "1795480141820000"
    assert (entry["XKSPROXY_KEYSTORE"], entry["XKSPROXY_HSMS"]) == ("payments", '["a","b"]')
    assert entry["XKSPROXY_REASON"] == "two lines"


_JOURNALD = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
cp "$1" /run/systemd/journald.conf.d/
"$2" &
until [ -S /run/systemd/journal/stdout ]; do sleep 0.1; done
systemd-cat -t xksproxy cat "$3"
# In the same way as the lines before, so that it comes after them.
until journalctl -q -t xksproxy -o cat | cmp -s - "$3"; do
    waited=$((waited + 1)); [ $waited -lt 300 ] || break
    sleep 0.1
done
journalctl --rotate
journalctl -q -t xksproxy -o cat
kill $!
"""


def test_the_journal_keeps_whole_lines_with_the_sample(tmp_path: Path) -> None:
    chain = Chain(_KEY)
    lines = [chain.next_line({"message": "request", "text": text}) for text in ("x", "y" * 100_000, "z")]
    (tmp_path / "audit.log").write_text("".join(f"{line}\n" for line in lines))
    sample = DEPLOY / "journald" / "xksproxy.conf"
    arguments = ["sh", "-c", _JOURNALD, "sh", sample, _program("systemd-journald"), tmp_path / "audit.log"]

    done = subprocess.run(
        ["unshare", "--mount", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    if "unshare failed" in done.stderr:
        pytest.skip("no file system can be mounted here")

    assert done.stdout.splitlines() == lines, done.stderr[-2000:]

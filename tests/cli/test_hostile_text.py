"""Nothing that comes from a file or from the network reaches a terminal raw, and every locale gets UTF-8."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xksproxy_tools.development import certificates
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.printable import printable, printable_lines

_TEXTS = (
    "ok\x1b[2J\x1b]0;title\a\b\t\v\f\x7f",
    "\x80\x85\x9b31m\x9d\xa0é€😀",
    "\u200e\u202a\u202e\u2066\u2069\u2028\u2029\ufeff\u200b",
    "\0\r\n",
    "a\r\nb\n",
    " \\\"' ",
)
_every_text = pytest.mark.parametrize("text", _TEXTS, ids=ascii)


def _harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def _assert_harmless(done: Any) -> None:
    text = done.text + done.err
    assert text
    assert _harmless(text), ascii(text)


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert _harmless(printable_lines(text))
    assert printable_lines(text).count("\n") == text.count("\n")


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_what_is_printable_stays(text: str) -> None:
    assert printable(text) == text


@pytest.fixture
def copy(environment: DevEnvironment, tmp_path: Path) -> Path:
    """A configuration to change."""
    directory = tmp_path / "copy"
    ignored = shutil.ignore_patterns("tokens", "log", "audit", "*.partial")
    shutil.copytree(environment.directory, directory, symlinks=True, ignore=ignored)
    return directory / environment.config.name


def _toml(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


@pytest.mark.parametrize("key", ["module", "token", "id", "uri_path_prefix", "certificate", "credentials", "level"])
def test_values_of_the_configuration(run: Callable[..., Any], copy: Path, key: str) -> None:
    text, original = "".join(_TEXTS), copy.read_text()
    lines = [f"{key} = {_toml(text)}" if line.startswith(f"{key} =") else line for line in original.splitlines()]
    copy.write_text("\n".join(lines) + "\n")

    for command in (("check-config",), ("status",), ("kms-config", "--endpoint", "https://h", "--as", "terraform")):
        _assert_harmless(run(*command, "--config", copy))


@_every_text
def test_keys_and_noise_in_the_configuration(run: Callable[..., Any], copy: Path, text: str) -> None:
    original = copy.read_text()
    for noise in (f"{_toml(text)} = 1\n{original}", f"{original}\n{text}", f"[{_toml(text)}]\n[{_toml(text)}]\n"):
        copy.write_text(noise)
        _assert_harmless(run("check-config", "--config", copy))


@_every_text
def test_credentials_by_name_and_content(run: Callable[..., Any], copy: Path, text: str) -> None:
    name = text.replace("\0", "").replace("/", "")
    file = copy.parent / "credentials" / f"{name}.toml"
    file.write_text(f"access_key_id = {_toml(text)}\nsecret_access_key = {_toml(text)}\n")
    file.chmod(0o600)

    _assert_harmless(run("check-config", "--config", copy))
    _assert_harmless(run("credentials", "list", "--config", copy))
    file.chmod(0o644)
    _assert_harmless(run("check-config", "--config", copy))


@_every_text
def test_policies(run: Callable[..., Any], copy: Path, text: str) -> None:
    policy = copy.parent / "a.cedar"
    copy.write_text(copy.read_text().replace("[[keystore]]", '[[keystore]]\npolicies = ["a.cedar"]', 1))
    for content in (
        f"@id({json.dumps(text)})\npermit (principal, action, resource);",
        f'permit (principal, action, resource == Xks::Key::"{text}");',
        text,
    ):
        policy.write_text(content)
        _assert_harmless(run("check-config", "--config", copy))
        _assert_harmless(
            run("policy", "explain", "--config", copy, "--operation", "encrypt", "--key", text.replace("\0", ""))
        )


@pytest.mark.parametrize("text", [text for text in _TEXTS if "\0" not in text], ids=ascii)
def test_names_in_certificates(run: Callable[..., Any], copy: Path, text: str) -> None:
    tls = copy.parent / "tls"
    authority = certificates.load_authority((tls / "ca.pem").read_bytes(), (tls / "ca-key.pem").read_bytes())
    certificate, key = certificates.issue(authority, text, hosts=("127.0.0.1",))
    (tls / "server.pem").write_bytes(certificate)
    (tls / "server-key.pem").write_bytes(key)

    _assert_harmless(run("check-config", "--config", copy))


@_every_text
def test_settings_to_import(run: Callable[..., Any], tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.toml"
    for content in (f"[server]\nip = {_toml(text)}\nport = 1\n", text, f"[{_toml(text)}]\na = 1"):
        file.write_text(content)
        _assert_harmless(run("import-settings", file, "--out", tmp_path / "out"))


@_every_text
def test_audit_logs(run: Callable[..., Any], copy: Path, text: str) -> None:
    original = copy.read_text()
    key, log = copy.parent / "audit-key", copy.parent / "audit.log"
    key.write_text("k" * 64)
    key.chmod(0o600)
    chained = '[audit]\nformat = "json"\nchain = true\nkey = { file = "audit-key" }\n'
    copy.write_text(re.sub(r"(?ms)^\[audit\].*?^(?=\[|\Z)", chained, original))
    lines = [{"time": text, "message": "checkpoint", "chain": text, "number": number} for number in (0, 7, text)]
    log.write_text("".join(f'{json.dumps(line)[:-1]},"mac":"{"0" * 64}"}}\n' for line in lines) + text + "\n")

    done = run("audit", "verify", "--config", copy, log)

    assert "numbers 0 to 7; a removed end is detected up to number 7" in done.text
    _assert_harmless(done)


@pytest.mark.parametrize("text", [text.replace("\0", "") for text in _TEXTS], ids=ascii)
def test_the_command_line(run: Callable[..., Any], copy: Path, text: str) -> None:
    for arguments in (
        (text,),
        (f"--{text}",),
        ("check-config", "--config", text),
        ("block", "--config", copy, "--keystore", text),
        ("block", "--config", copy, "--key", text),
        ("credentials", "retire", "--config", copy, "--", text),
        ("bench", "--target", text),
        ("call", "health", "--host", text),
    ):
        _assert_harmless(run(*arguments))


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers every request with the same document."""

    def do_GET(self) -> None:
        body = json.dumps(self.server.document).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def admin() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _ask(copy: Path, admin: http.server.HTTPServer) -> None:
    """Let the configuration name this listener."""
    head = copy.read_text().partition("[admin]")[0]
    copy.write_text(f'{head}\n[admin]\nlisten = "127.0.0.1:{admin.server_port}"\n')


def _status(text: str) -> dict[str, Any]:
    block = {"since": 1.0, "reason": text}
    return {
        "machine": text,
        "ready": False,
        "version": text,
        "workers": [],
        "conditions": [dict.fromkeys(("severity", "cause", "keystore", "hsm", "text"), text)],
        "hsms": [
            {
                "id": text,
                "state": text,
                "reason": text,
                "model": text,
                "workers_served": 0,
                "workers": 1,
                "sessions": 1,
                "stuck_sessions": 0,
            }
        ],
        "keystores": [
            {
                "name": text,
                "blocked": block,
                "state": text,
                "keys": [{"id": text, "state": text, "blocked": block, "version": text, "encryptions": 1}],
            }
        ],
        "refusals": [{"count": 1, "error": text, "operation": text, "keystore": text, "reason": text}],
    }


@_every_text
def test_what_the_admin_listener_answers(
    run: Callable[..., Any], copy: Path, admin: http.server.HTTPServer, text: str
) -> None:
    _ask(copy, admin)
    admin.document = _status(text)  # type: ignore[attr-defined]

    done = run("status", "--config", copy)

    assert done.code == 1
    _assert_harmless(done)


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "none"])
def test_every_locale_gets_utf8_without_a_traceback(copy: Path, admin: http.server.HTTPServer, locale: str) -> None:
    _ask(copy, admin)
    admin.document = _status("schlüssel")  # type: ignore[attr-defined]

    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "xksproxy", "status", "--config", copy],
        env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.decode("utf-8").count("schlüssel") > 10

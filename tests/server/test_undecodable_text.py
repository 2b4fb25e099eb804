"""Names, reasons and variables that are not text stop neither the service nor the kill switch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from server_support import OwnProxy, ask_admin, assert_serving, audit_lines, chained
from support import Proxy, eventually, lines_with

pytestmark = pytest.mark.slow

_NO_TEXT = b"x\xff\x1b[2J"


def run(proxy: Proxy, *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "xksproxy", *arguments, "--config", str(proxy.environment.config)]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environb, b"SUDO_USER": _NO_TEXT})


def test_a_file_whose_name_is_no_text_is_refused_by_name_and_the_service_goes_on(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    name = os.fsencode(proxy.environment.directory / "credentials") + b"/" + _NO_TEXT + b".toml"
    Path(os.fsdecode(name)).write_text("no credential")

    eventually(lambda: lines_with(proxy.log, "changed credentials or certificates refused"))
    proxy.process.send_signal(signal.SIGHUP)
    (refused,) = eventually(lambda: audit_lines(log, '"message":"reload refused"'))
    assert "udcff" in str(refused["problems"])
    eventually(lambda: "udcff" in str(json.loads(ask_admin(proxy, "/status").content)["conditions"]))
    done = run(proxy, "reload")
    assert done.returncode == 1
    assert rb"x\udcff" in done.stderr
    assert b"\x1b" not in done.stderr
    assert proxy.process.poll() is None
    assert_serving(proxy, 4)


def test_a_block_takes_effect_whatever_its_reason_and_the_user_are(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))

    done = run(proxy, "block", "--keystore", "dev", "--reason", _NO_TEXT)

    assert done.returncode == 0, done.stderr
    (line,) = eventually(lambda: audit_lines(log, '"message":"block set"'))
    assert line["after"]["reason"] == "x\\udcff\x1b[2J"
    assert line["claimed_sudo_user"] == "x\\udcff\x1b[2J"
    for path in ("/", "/status", "/metrics"):
        content = ask_admin(proxy, path).content
        assert all(text.isprintable() for text in content.decode().split("\n")), path
    assert b"udcff" in ask_admin(proxy, "/").content

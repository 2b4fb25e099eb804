"""One line in the chained audit log for each event of the life cycle, whoever causes it and whenever."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_support import FaultyHsm
from server_support import OwnProxy, assert_serving, audit_lines, chained, on, stop, workers
from support import Proxy, eventually, lines_with, serve, wait_until_serving

pytestmark = pytest.mark.slow


def run(proxy: Proxy, *arguments: str, code: int = 0) -> None:
    command = [sys.executable, "-m", "xksproxy", *arguments, "--config", str(proxy.environment.config)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "SUDO_USER": "somebody"}
    )
    assert done.returncode == code, done.stdout + done.stderr


def lines(log: Path, message: str) -> list[dict[str, Any]]:
    return audit_lines(log, f'"message":"{message}"')


def line(log: Path, message: str) -> dict[str, Any]:
    """The only line with a message."""
    (found,) = eventually(lambda: lines(log, message))
    return found


def assert_acted(found: dict[str, Any], pid: int | None = None) -> None:
    """It says who acted."""
    assert found["machine"] == os.uname().nodename
    assert found["user"]
    assert found["process"] == pid if pid else found["process"] > 0


def start_again(own_proxy: OwnProxy, proxy: Proxy) -> Proxy:
    process = serve(proxy.environment.config, proxy.log)
    own_proxy.adopt(process)
    wait_until_serving(proxy.environment.config, process)
    return replace(proxy, process=process)


def verify(proxy: Proxy, log: Path) -> None:
    run(proxy, "audit", "verify", str(log))


def test_start_stop_and_each_command_have_one_line_with_values_before_and_after(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    more = '[[keystore.keys]]\nid = "test-audited"\n\n[[keystore.keys]]'
    proxy = own_proxy.start(edit=lambda text: chained(text.replace("[[keystore.keys]]", more, 1), log))
    pids = workers(proxy)
    master = proxy.process.pid
    assert_acted(line(log, "started"), master)
    eventually(lambda: {item["pid"] for item in lines(log, "worker started")}, pids)
    eventually(lambda: {item["pid"] for item in lines(log, "HSM in service")}, pids)

    run(proxy, "block", "--keystore", "dev", "--key", "demo-key", "--reason", "incident 4711")
    found = line(log, "block set")
    assert_acted(found)
    assert found["claimed_sudo_user"] == "somebody"
    assert (found["keystore"], found["key_id"], found["before"]) == ("dev", "demo-key", None)
    assert found["after"]["reason"] == "incident 4711"
    run(proxy, "unblock", "--keystore", "dev", "--key", "demo-key")
    found = line(log, "block removed")
    assert (found["before"]["reason"], found["after"]) == ("incident 4711", None)

    run(proxy, "keys", "rotate", "--keystore", "dev", "demo-key")
    made = line(log, "key created")
    found = line(log, "version activated")
    assert_acted(made)
    assert (made["key_id"], made["hsm"], made["label"]) == ("demo-key", "softhsm", f"demo-key.v{found['version']}")
    assert found["before"]["primary"] == 1
    assert found["after"]["primary"] == found["version"] > 1  # the token may have keys of other tests
    run(proxy, "keys", "disable-version", "--keystore", "dev", "--force", "demo-key", "1")
    found = line(log, "version disabled")
    assert (found["before"]["disabled"], found["after"]["disabled"], found["forced"]) == ([], [1], True)
    run(proxy, "keys", "enable-version", "--keystore", "dev", "demo-key", "1")
    found = line(log, "version enabled")
    assert (found["before"]["disabled"], found["after"]["disabled"]) == ([1], [])

    run(proxy, "keys", "create", "--keystore", "dev", "--usage", "encrypt", "test-audited")
    (found,) = eventually(lambda: [item for item in lines(log, "key created") if item["key_id"] == "test-audited"])
    assert (found["label"], found["hsm"], found["usage"]) == ("test-audited", "softhsm", "encrypt")

    run(proxy, "credentials", "create", "--keystore", "dev")
    created = line(log, "credential created")["access_key_id"]
    run(proxy, "credentials", "retire", "--keystore", "dev", "--force", created)
    assert line(log, "credential retired")["access_key_id"] == created

    assert stop(proxy) == 0
    assert_acted(line(log, "stopping"), master)
    assert list((proxy.environment.directory / "state" / "audit").glob("*.json")) == []
    verify(proxy, log)


def test_the_first_use_of_a_credential_has_one_line_over_all_workers(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(
        edit=lambda text: chained(text.replace('directory = "state"', 'directory = "new-state"'), log)
    )

    assert_serving(proxy, 20)

    found = line(log, "credential first used")
    assert (found["keystore"], found["access_key_id"]) == ("dev", proxy.credential.access_key_id)
    assert_serving(proxy, 4)
    assert len(lines(log, "credential first used")) == 1


def test_reloads_have_a_line_with_what_changed_and_refused_ones_with_the_reasons(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    config = proxy.environment.config

    config.write_text(config.read_text().replace('id = "demo-key"', 'id = "demo-key"\ndisabled = true', 1))
    run(proxy, "reload")
    assert line(log, "reloaded")["changed"] == ["keystore.dev.keys.demo-key.disabled"]

    good = config.read_text()
    config.write_text(good.replace("workers = ", "wrokers = "))
    proxy.process.send_signal(signal.SIGHUP)
    assert "wrokers" in str(line(log, "reload refused")["problems"])

    config.write_text(good.replace('preset = "softhsm2"', 'preset = "softhsm2"\nsessions = 3'))
    run(proxy, "reload")
    eventually(lambda: len(lines(log, "reloaded")), 2)
    assert lines(log, "reloaded")[1]["changed"] == ["hsm.softhsm.sessions"]
    assert stop(proxy) == 0
    verify(proxy, log)


def test_an_hsm_out_of_service_and_its_return_have_a_line_in_each_worker(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm], tmp_path: Path
) -> None:
    log, faulty = tmp_path / "audit.log", make_faulty()
    proxy = own_proxy.start(edit=lambda text: chained(on(faulty, text, "check_interval_s = 1"), log))
    pids = workers(proxy)

    faulty.tell("* return 0x30")
    eventually(lambda: {item["pid"] for item in lines(log, "HSM out of service")}, pids)
    faulty.tell()
    eventually(lambda: len(lines(log, "HSM in service")), 4)

    out = lines(log, "HSM out of service")
    assert [(item["hsm"], item["before"], item["after"]) for item in out] == [
        ("softhsm", "in service", "out of service")
    ] * len(out)
    assert all("CKR_DEVICE_ERROR" in item["reason"] for item in out)


def test_a_refused_log_in_has_one_line_and_so_has_its_permission(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"

    def edit(text: str) -> str:
        wrong = tmp_path / "pin"
        wrong.write_text("99999999")
        wrong.chmod(0o600)
        text = re.sub(r"(?m)^pin = .*$", f'pin = {{ file = "{wrong}" }}', text)
        text = text.replace('directory = "state"', 'directory = "new-state"')
        return chained(text, log)

    proxy = own_proxy.start(edit=edit, serving=False)
    found = line(log, "log-in refused")
    assert (found["hsm"], found["after"]) == ("softhsm", "refused")

    run(proxy, "hsm", "allow-login", "softhsm")
    found = line(log, "log-in allowed")
    assert (found["hsm"], found["before"]) == ("softhsm", "refused")
    assert "99999999" not in log.read_text()


def test_events_while_no_proxy_runs_are_written_at_the_next_start(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    assert stop(proxy) == 0

    run(proxy, "block", "--keystore", "dev", "--reason", "while stopped")
    run(proxy, "unblock", "--keystore", "dev")
    assert lines(log, "block set") == []

    proxy = start_again(own_proxy, proxy)
    eventually(lambda: lines(log, "block removed"))
    assert [item["after"]["reason"] for item in lines(log, "block set")] == ["while stopped"]
    assert lines(log, "block set")[0]["time"] < lines(log, "started")[1]["time"]
    assert stop(proxy) == 0
    verify(proxy, log)


def test_events_while_workers_are_killed_are_written_exactly_once(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))

    for number in range(3):
        run(proxy, "block", "--keystore", "dev", "--reason", f"number {number}")
        run(proxy, "unblock", "--keystore", "dev")
        eventually(lambda number=number: len(lines(log, "block removed")) > number)
        eventually(lambda: not list((proxy.environment.directory / "state" / "audit").glob("*.json")))
        before = workers(proxy)
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda before=before: len(workers(proxy)) == 2 and workers(proxy) != before)
        wait_until_serving(proxy.environment.config, proxy.process)

    assert [item["after"]["reason"] for item in lines(log, "block set")] == [f"number {number}" for number in range(3)]
    assert len(lines(log, "block removed")) == 3


def test_an_event_waits_while_the_log_cannot_be_written_and_every_report_says_so(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    log = tmp_path / "directory" / "audit.log"
    log.parent.mkdir()
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    eventually(lambda: lines(log, "started"))
    log.unlink()
    log.mkdir()

    run(proxy, "block", "--keystore", "dev", "--reason", "unrecorded")

    def shown() -> tuple[int, bool]:
        command = [sys.executable, "-m", "xksproxy", "status", "--config", str(proxy.environment.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, "audit-not-written" in done.stdout

    eventually(shown, (1, True))
    assert lines_with(proxy.log, "audit log cannot be written")
    assert list((proxy.environment.directory / "state" / "audit").glob("*.json"))
    log.rmdir()
    assert line(log, "block set")["after"]["reason"] == "unrecorded"

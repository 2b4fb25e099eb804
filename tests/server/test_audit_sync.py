"""With ``[audit] sync``, an answer to a signed request is sent only after its line is on disk."""

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from fault_support import compile_library
from server_support import (
    ClosedByProxy,
    OwnProxy,
    Wire,
    ask_admin,
    assert_error,
    audit_lines,
    encrypt_body,
    key_path,
    signed_post,
    workers,
)
from support import PATIENCE_SECONDS, Proxy, eventually, lines_with

pytestmark = pytest.mark.slow


def synced(text: str, log: Path) -> str:
    """The text of a configuration whose audit log is on disk before an answer."""
    table = f'[audit]\nfile = "{log}"\nwhen_full = "refuse"\nsync = true\n'
    return re.sub(r'(?s)\[audit\]\nformat = "console"\n', table, text)


class Faults:
    """Makes fdatasync hang or fail in the processes of a proxy."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix

    def set(self, *faults: str) -> None:
        """Have these faults from now on: hang, fail."""
        for fault in ("hang", "fail"):
            path = self._prefix.with_suffix(f".{fault}")
            path.touch() if fault in faults else path.unlink(missing_ok=True)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setenv("LD_PRELOAD", str(compile_library(tmp_path, "sync_fault")))
    monkeypatch.setenv("SYNC_FAULT", str(tmp_path / "fault"))
    return Faults(tmp_path / "fault")


def encryption(proxy: Proxy, number: int = 0) -> bytes:
    body = json.loads(encrypt_body(b"text"))
    body["requestMetadata"]["kmsRequestId"] = str(number)
    return signed_post(proxy, key_path("encrypt"), json.dumps(body).encode())


def test_what_was_answered_before_a_kill_has_its_line(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: synced(text, log))
    answered: list[int] = []

    def ask(first: int) -> None:
        try:
            with Wire(proxy) as wire:
                for number in range(first, first + 10_000):
                    assert wire.ask(encryption(proxy, number)).status == 200
                    answered.append(number)
        except (ClosedByProxy, OSError):
            return

    threads = [threading.Thread(target=ask, args=(100_000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answered) > 100)
    for pid in (proxy.process.pid, *workers(proxy)):
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    lines = log.read_text().splitlines()
    recorded = {
        line["request_metadata"]["kmsRequestId"]
        for line in map(json.loads, lines if log.read_text().endswith("\n") else lines[:-1])
        if line.get("operation") == "Encrypt" and line["status"] == 200
    }
    assert {str(number) for number in answered} <= recorded


def test_no_answer_comes_while_its_line_is_not_synced_and_a_signature_that_fails_does_not_wait(
    own_proxy: OwnProxy, faults: Faults, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(server="workers = 1", edit=lambda text: synced(text, log), forked=False)
    with Wire(proxy) as wire, Wire(proxy) as other:
        assert wire.ask(encryption(proxy)).status == 200
        faults.set("hang")
        wire.send(encryption(proxy, 7))
        eventually(lambda: audit_lines(log, '"kmsRequestId":"7"', '"status":200'))
        wire.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.socket.recv(1)
        assert_error(other.ask(signed_post(proxy, authorization="none")), 401, "AuthenticationFailedException")
        wire.socket.settimeout(PATIENCE_SECONDS)
        faults.set()

        assert wire.reply().status == 200


def test_while_syncs_fail_requests_are_refused_and_the_cause_is_shown(
    own_proxy: OwnProxy, faults: Faults, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(server="workers = 1", edit=lambda text: synced(text, log), forked=False)
    with Wire(proxy) as wire:
        assert wire.ask(encryption(proxy)).status == 200
        faults.set("fail")

        first, second = wire.ask(encryption(proxy, 1)), wire.ask(encryption(proxy, 2))

        for reply in (first, second):
            assert_error(reply, 500, "InternalException")
        assert "audit-refusing" in eventually(lambda: conditions(proxy))
        assert lines_with(proxy.log, "audit log cannot be synced", "Input/output error")
        faults.set()
        eventually(lambda: wire.ask(encryption(proxy, 3)).status, 200)
        eventually(lambda: conditions(proxy), set())


def test_with_the_deadline_of_production_an_answer_that_cannot_be_recorded_in_time_is_a_500(
    own_proxy: OwnProxy, faults: Faults, tmp_path: Path
) -> None:
    proxy = own_proxy.start(
        server="workers = 1", edit=lambda text: synced(text, tmp_path / "audit.log"), forked=False, deadline_ms=None
    )
    with Wire(proxy) as wire:
        eventually(lambda: wire.ask(encryption(proxy)).status, 200)
        faults.set("hang")

        assert_error(wire.ask(encryption(proxy, 1)), 500, "InternalException")
        assert proxy.process.poll() is None
        faults.set()
        eventually(lambda: wire.ask(encryption(proxy, 2)).status, 200)


def conditions(proxy: Proxy) -> set[str]:
    return {item["cause"] for item in json.loads(ask_admin(proxy, "/status").content)["conditions"]}

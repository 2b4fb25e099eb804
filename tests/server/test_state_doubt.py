"""A running proxy on a state directory that is older than its audit log knows: Decrypt goes on, nothing is opened."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from server_support import Caller, OwnProxy, ask_admin, audit_lines, roaming_caller, stop
from support import Proxy, eventually, serve, wait_for_port, wait_until_serving


class Machine:
    """A proxy with the audit log in a file, and a key of its own."""

    def __init__(self, own_proxy: OwnProxy, key: str) -> None:
        self.key = key
        self._own_proxy = own_proxy
        self.proxy = own_proxy.start(edit=self._edit)
        self.config = self.proxy.environment.config
        self.state, self.log = self.config.parent / "state", self.config.parent / "audit.log"

    def _edit(self, text: str) -> str:
        text = text.replace('id = "demo-key"', f'id = "{self.key}"\n\n[[keystore.keys]]\nid = "demo-key"', 1)
        return re.sub(r'(?s)\[audit\]\nformat = "console"\n', '[audit]\nfile = "audit.log"\n', text)

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        store = ("--keystore", "dev") if arguments[0] in ("keys", "block", "unblock", "credentials") else ()
        return run_command(*arguments, *store, "--config", self.config)

    def numbers(self) -> list[int]:
        return [line["state_number"] for line in audit_lines(self.log, '"message":"state"')]

    def stop(self) -> None:
        assert stop(self.proxy) == 0

    def start(self, *, serving: bool) -> None:
        process = serve(self.config, self.proxy.log)
        self._own_proxy.adopt(process)
        self.proxy = Proxy(
            self.proxy.environment,
            process,
            self.proxy.log,
            self.proxy.credential,
            self.proxy.credential,
            self.proxy.other_credential,
        )
        wait_for_port(self.proxy.port, process)
        if serving:
            wait_until_serving(self.config, process)

    def conditions(self) -> list[dict[str, Any]]:
        found = json.loads(ask_admin(self.proxy, "/status").content)["conditions"]
        return [item for item in found if item["cause"] == "state-in-doubt"]


def refused_encrypt(caller: Caller, key: str) -> bool:
    answers = {
        (answer.status, answer.body.get("errorName")) for answer in (caller.encrypt(key, b"x") for _ in range(6))
    }
    return answers == {(500, "InternalException")}


def assert_nothing_is_opened_by_a_command(machine: Machine) -> None:
    for opens in (
        ("unblock", "--key", "encrypt-only-key"),
        ("keys", "rotate", machine.key),
        ("keys", "enable-version", machine.key, "1"),
        ("credentials", "reinstate", machine.proxy.credential.access_key_id),
    ):
        refused = machine.command(*opens)
        assert refused.returncode == 2, opens
        assert "but the audit log" in refused.stderr
        assert "xksproxy state restore FILE" in refused.stderr
    assert machine.command("state", "check").returncode == 1


@pytest.mark.parametrize("how", ["an older copy", "lost"])
def test_a_directory_that_was_put_back_or_lost_is_settled_by_hand_and_opens_nothing_before(
    own_proxy: OwnProxy, request_metadata: dict[str, str], tmp_path: Path, how: str
) -> None:
    key = "doubted-" + how.partition(" ")[0]
    machine = Machine(own_proxy, key)
    machine.command("keys", "create", key).check_returncode()
    with roaming_caller(machine.proxy, request_metadata) as caller:
        eventually(lambda: caller.encrypt(key, b"x").status, 200)
        sealed = caller.seal(key, b"text")
    machine.command("block", "--key", "encrypt-only-key").check_returncode()
    eventually(machine.numbers)
    shutil.copytree(machine.state, tmp_path / "copy")
    before = machine.numbers()[-1]
    machine.command("block", "--key", "impotent-key").check_returncode()
    eventually(lambda: machine.numbers()[-1] > before)
    machine.stop()
    shutil.rmtree(machine.state)
    machine.state.mkdir(0o700)
    if how != "lost":
        shutil.copytree(tmp_path / "copy", machine.state, dirs_exist_ok=True)

    assert_nothing_is_opened_by_a_command(machine)
    machine.start(serving=False)

    eventually(machine.conditions)
    with roaming_caller(machine.proxy, request_metadata) as caller:
        eventually(lambda: caller.decrypt(key, sealed).status, 200)
        assert {caller.decrypt(key, sealed).status for _ in range(6)} == {200}
        assert refused_encrypt(caller, key)
    shown = machine.command("status")
    assert shown.returncode == 1
    assert "but the audit log" in shown.stdout
    assert "xksproxy state accept" in shown.stdout
    assert machine.command("state", "accept").returncode == 2  # while it runs
    machine.stop()

    accepted = machine.command("state", "accept")
    machine.start(serving=True)

    assert accepted.returncode == 0, accepted.stderr
    assert machine.conditions() == []
    with roaming_caller(machine.proxy, request_metadata) as caller:
        if how == "lost":
            answer = caller.encrypt(key, b"x")
            assert (answer.status, answer.body["errorName"]) == (400, "InvalidStateException")
            machine.command("keys", "rotate", key).check_returncode()
            eventually(lambda: caller.encrypt(key, b"x").status, 200)
        else:
            assert caller.encrypt(key, b"x").status == 200
            shown = json.loads(machine.command("keys", "show", key, "--json").stdout)
            assert shown["versions"][0]["encryptions"] > 7200
        assert caller.decrypt(key, sealed).status == 200
    assert machine.command("state", "check").returncode == 0


def test_without_a_witness_the_directory_begins_anew(own_proxy: OwnProxy) -> None:
    def edit(text: str) -> str:
        text = text.replace('directory = "state"', 'directory = "state"\nwitness = "none"')
        return re.sub(r'(?s)\[audit\]\nformat = "console"\n', '[audit]\nfile = "audit.log"\n', text)

    proxy = own_proxy.start(edit=edit)

    assert "state_number" not in (proxy.environment.directory / "audit.log").read_text()
    assert not (proxy.environment.directory / "state" / "number.json").exists()

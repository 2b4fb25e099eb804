"""A running proxy on a state directory that is older than its witness knows: Decrypt goes on, nothing is opened."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from fault_support import FaultyHsm
from server_support import Caller, OwnProxy, ask_admin, audit_lines, copy_state, health, on, roaming_caller, stop
from support import Proxy, eventually, lines_with, serve, wait_for_port, wait_until_serving

from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.witness_records import place_of, read_records


class Machine:
    """A proxy with the audit log in a file, and a key of its own."""

    def __init__(self, own_proxy: OwnProxy, key: str) -> None:
        self.key = key
        self.knows = "but the audit log"
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

    def let_the_token_know(self, session: HsmSession) -> None:
        """From now on the token is the witness, and nothing is left of the audit log."""
        text = self.config.read_text().replace('directory = "state"', 'directory = "state"\nwitness = "token"')
        self.config.write_text(text.replace('file = "audit.log"\n', 'format = "console"\n'))
        self.knows = "but the token of HSM softhsm"
        self.start(serving=True)
        here = place_of(self.state)
        eventually(lambda: [item for item in read_records(session) if item.witness.state_directory == here])
        self.stop()
        self.log.unlink()

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
        assert machine.knows in refused.stderr
        assert "xksproxy state restore FILE" in refused.stderr
    assert machine.command("state", "check").returncode == 1


def assert_the_status_says_so(machine: Machine) -> None:
    shown = machine.command("status")
    assert shown.returncode == 1
    assert machine.knows in shown.stdout
    assert "xksproxy state accept" in shown.stdout
    stores = json.loads(machine.command("status", "--json").stdout)["keystores"]
    assert {store["state"] for store in stores} == {"UNAVAILABLE"}
    assert {key["state"] for store in stores for key in store["keys"] if key["id"] == machine.key} == {"UNAVAILABLE"}


@pytest.mark.parametrize("witness", ["audit", "token"])
@pytest.mark.parametrize("how", ["an older copy", "lost"])
def test_a_directory_that_was_put_back_or_lost_is_settled_by_hand_and_opens_nothing_before(
    own_proxy: OwnProxy,
    request_metadata: dict[str, str],
    session: HsmSession,
    tmp_path: Path,
    *,
    how: str,
    witness: str,
) -> None:
    key = f"doubted-{witness}-{how.partition(' ')[0]}"
    machine = Machine(own_proxy, key)
    machine.command("keys", "create", key).check_returncode()
    with roaming_caller(machine.proxy, request_metadata) as caller:
        eventually(lambda: caller.encrypt(key, b"x").status, 200)
        sealed = caller.seal(key, b"text")
    machine.command("block", "--key", "encrypt-only-key").check_returncode()
    eventually(machine.numbers)
    copy_state(machine.state, tmp_path / "copy")
    before = machine.numbers()[-1]
    machine.command("block", "--key", "impotent-key").check_returncode()
    eventually(lambda: machine.numbers()[-1] > before)
    machine.stop()
    if witness == "token":
        machine.let_the_token_know(session)
    shutil.rmtree(machine.state)
    machine.state.mkdir(0o700)
    if how != "lost":
        shutil.copytree(tmp_path / "copy", machine.state, dirs_exist_ok=True)

    assert_nothing_is_opened_by_a_command(machine)
    machine.start(serving=False)

    eventually(machine.conditions)
    with roaming_caller(machine.proxy, request_metadata) as caller:
        # A worker knows of the doubt before its HSM serves, so each worker may need a moment more.
        eventually(lambda: {caller.decrypt(key, sealed).status for _ in range(12)}, {200})
        assert refused_encrypt(caller, key)
    assert_the_status_says_so(machine)
    assert machine.command("state", "accept").returncode == 2  # while it runs
    machine.stop()

    accepted = machine.command("state", "accept")
    machine.start(serving=True)

    assert accepted.returncode == 0, accepted.stderr
    assert machine.conditions() == []
    with roaming_caller(machine.proxy, request_metadata) as caller:
        if how == "lost":
            eventually(lambda: "key-limit" in {cause for cause, _ in causes_and_texts(machine.proxy)})
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


def causes_and_texts(proxy: Proxy) -> list[tuple[str, str]]:
    found = json.loads(ask_admin(proxy, "/status").content)["conditions"]
    return [(item["cause"], item["text"]) for item in found]


def conditions_of(proxy: Proxy) -> list[tuple[str, str]]:
    """Those about the state directory: the token is a copy that may have keys of other tests."""
    return [(cause, text) for cause, text in causes_and_texts(proxy) if cause.startswith("state-")]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["return 0xd1", "hang"])
def test_a_token_that_keeps_no_witness_goes_on_serving(
    own_proxy: OwnProxy,
    make_faulty: Callable[..., FaultyHsm],
    request_metadata: dict[str, str],
    fault: str,
) -> None:
    faulty = make_faulty()
    faulty.tell("note C_CreateObject", f"C_CreateObject {fault}")

    def edit(text: str) -> str:
        return on(faulty, text.replace('directory = "state"', 'directory = "state"\nwitness = "token"'))

    proxy = own_proxy.start(edit=edit)

    if fault == "hang":
        eventually(faulty.noted_calls)
    else:
        (found,) = eventually(lambda: conditions_of(proxy))
        assert found[0] == "state-without-witness"
        assert "softhsm: it cannot be written: C_CreateObject: CKR_TEMPLATE_INCONSISTENT" in found[1]
        eventually(lambda: lines_with(proxy.log, "token is no witness of the state"))
    eventually(lambda: health(proxy), {"ACTIVE"})
    with roaming_caller(proxy, request_metadata) as caller:
        assert {caller.encrypt("demo-key", b"x").status for _ in range(20)} == {200}
    assert len(conditions_of(proxy)) == (0 if fault == "hang" else 1)

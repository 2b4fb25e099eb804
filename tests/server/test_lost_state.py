"""State files that vanish, break or go back in time never open, enable or lower anything, whatever follows."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from commands import run_command
from msgspec.structs import replace
from server_support import (
    ClosedByProxy,
    OwnProxy,
    Wire,
    ask_admin,
    encrypt_body,
    key_path,
    signed_post,
    workers,
)
from support import Proxy, eventually
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.credentials import save_credential
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, Key
from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.server.services import Services
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.spec.errors import InternalException, InvalidStateException
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.reservation import LimitReached
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import VersionRecord, version_table

BLOCKED, ROTATED, MAXIMUM = "blocked-key", "rotated-key", 100
FINGERPRINT, OTHER = KeyFingerprint(b"one", None), KeyFingerprint(b"two", None)


class Machine:
    """A worker's services on real files; no HSM is called."""

    def __init__(self, config: Config, runtime: Path) -> None:
        self.config, self._runtime = config, runtime
        self.state = Path(config.state.directory)
        self.fill()
        self.services = Services(config, runtime)

    def fill(self) -> None:
        """Write every file twice, so that there is an older copy."""
        blocks, versions = block_table(self.state, "dev"), version_table(self.state, "dev")
        fingerprints = SharedTable(self.state, "keys-dev.json", KeyFingerprint)
        usage = UsageBook(self.state)
        blocks.update("another", lambda _: Block(1.0))
        versions.update(ROTATED, lambda _: VersionRecord(1, proven=(1, 2)))
        fingerprints.update("another", lambda _: OTHER)
        usage.records.set_times(ROTATED + ".v2", last_encrypted=1.0)
        self.older = {path: path.read_bytes() for path in self.files().values()}
        blocks.update(BLOCKED, lambda _: Block(2.0))
        versions.update(ROTATED, lambda _: VersionRecord(2, proven=(1, 2), disabled=(1,)))
        fingerprints.update(ROTATED, lambda _: FINGERPRINT)
        usage.records.add(ROTATED + ".v2", MAXIMUM, None, 0)

    def files(self) -> dict[str, Path]:
        names = ("blocks-dev.json", "versions-dev.json", "keys-dev.json", f"usage/key-{ROTATED}.v2.json")
        return {name: self.state / name for name in names}

    def follow(self) -> None:
        for _ in range(3):
            self.services.state.usage.records._checked_at = -1e9
            self.services.refresh_state()

    @property
    def problem(self) -> str:
        """Why Encrypt requests of the key store are refused."""
        return self.services.state.problem or self.services.state.tables.of("dev").problem

    def happens(self, event: str) -> None:
        match event:
            case "certificate touched":
                os.utime(self.config.server.tls.certificate)
            case "credential changed":
                save_credential(Path(self.config.keystore[0].credentials), generate_credential())
            case "SIGHUP":
                self.services.replace_snapshot(replace(self.config))
            case "worker killed":
                self.services = Services(self.config, self._runtime)
        self.follow()

    def assert_nothing_opened(self) -> None:
        store = next(item.store for item in self.services.snapshot.services.values() if item.store.name == "dev")
        rotated = store.keys.resolve(ROTATED)
        with suppress(InternalException):
            assert store.blocks.find(BLOCKED) == Block(2.0)
        with suppress(InternalException):
            assert store.versions.primary(rotated).number == 2
        with pytest.raises((InvalidStateException, InternalException)):
            store.versions.of_ciphertext(rotated, b"")
        with pytest.raises((LimitReached, StateUnusable)):
            self.services.state.usage.count_encryption(ROTATED + ".v2", MAXIMUM)
        fingerprints = self.services.state.tables.of("dev").fingerprints
        with suppress(TokenUnavailable):
            assert fingerprints.propose(ROTATED, OTHER) == FINGERPRINT


@pytest.fixture
def machine(environment: DevEnvironment, tmp_path: Path) -> Machine:
    config = load_config(environment.config)
    (tmp_path / "credentials").mkdir(0o700)
    certificate = tmp_path / "certificate"
    certificate.write_bytes(Path(config.server.tls.certificate).read_bytes())
    save_credential(tmp_path / "credentials", generate_credential())
    keys = (Key(id=BLOCKED), Key(id=ROTATED, maximum_encryptions=MAXIMUM))
    store = replace(config.keystore[0], credentials=str(tmp_path / "credentials"), keys=keys)
    tls = replace(config.server.tls, certificate=str(certificate))
    state = replace(config.state, directory=str(tmp_path / "state"))
    server = replace(config.server, tls=tls)
    (tmp_path / "run").mkdir()
    (tmp_path / "state").mkdir(0o700)
    return Machine(replace(config, keystore=(store,), server=server, state=state), tmp_path / "run")


def lose(machine: Machine, path: Path, how: str) -> None:
    match how:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(path.read_bytes()[:-9])
        case "unreadable":
            path.rename(path.with_name("elsewhere"))
            path.mkdir()
        case "an older copy":
            path.write_bytes(machine.older[path])


FILES = ["blocks-dev.json", "versions-dev.json", "keys-dev.json", f"usage/key-{ROTATED}.v2.json"]
LOSSES = ["deleted", "emptied", "torn", "unreadable", "an older copy"]
EVENTS = ["nothing", "certificate touched", "credential changed", "SIGHUP", "worker killed"]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("name", FILES)
def test_whatever_becomes_of_a_state_file_nothing_is_opened_enabled_or_lowered(
    machine: Machine, name: str, how: str, event: str
) -> None:
    path = machine.files()[name]
    good = path.read_bytes()
    machine.follow()
    assert machine.problem == ""

    lose(machine, path, how)
    machine.happens("nothing")
    machine.assert_nothing_opened()
    machine.happens(event)
    machine.assert_nothing_opened()

    assert str(path) in machine.problem
    if path.is_dir():
        path.rmdir()
    path.write_bytes(good)
    machine.happens("nothing")
    machine.assert_nothing_opened()
    assert machine.problem == ""


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("how", ["deleted", "emptied", "torn", "unreadable"])
@pytest.mark.parametrize("name", FILES)
def test_whatever_becomes_of_the_record_of_a_file_nothing_is_opened_enabled_or_lowered(
    machine: Machine, name: str, how: str, event: str
) -> None:
    lose(machine, machine.state / "manifest" / name, how)

    machine.happens("nothing")
    machine.assert_nothing_opened()
    machine.happens(event)
    machine.assert_nothing_opened()


def encrypts(proxy: Proxy) -> int:
    """The status of an Encrypt over a new connection; 0 while no worker answers."""
    try:
        with Wire(proxy) as wire:
            return wire.ask(signed_post(proxy, key_path("encrypt"), encrypt_body(b"text"))).status
    except (OSError, ClosedByProxy):
        return 0


def move_away(state: Path) -> None:
    state.rename(state.with_name("elsewhere"))


def move_away_and_make_anew(state: Path) -> None:
    move_away(state)
    state.mkdir(0o700)


def test_the_use_of_a_credential_is_not_written_to_another_directory_that_was_not_noticed_yet(machine: Machine) -> None:
    machine.services.state.tables._uses.mark_used("dev", "AKID")
    move_away_and_make_anew(machine.state)

    machine.services.state.flush_uses()

    assert not (machine.state / "credential-uses.json").exists()


@pytest.mark.parametrize("lose_directory", [move_away, move_away_and_make_anew])
def test_a_state_directory_that_is_moved_away_never_counts_as_empty_state(
    own_proxy: OwnProxy, lose_directory: Callable[[Path], None]
) -> None:
    proxy = own_proxy.start()
    config, state = proxy.environment.config, proxy.environment.directory / "state"
    block = ("block", "--keystore", "dev", "--key", "decrypt-only-key", "--config", config)
    run_command(*block).check_returncode()

    def ask(key: str, operation: str) -> set[int]:
        """The statuses that workers give."""
        found = set()
        for _ in range(10):
            with Wire(proxy) as wire:
                path = key_path(operation, key)
                found.add(wire.ask(signed_post(proxy, path, encrypt_body(b"text"))).status)
        return found

    lose_directory(state)
    eventually(lambda: ask_admin(proxy, "/readyz/dev").status, 503)
    eventually(lambda: ask("demo-key", "encrypt"), {500})
    old = workers(proxy)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers(proxy) - old), 2)
    eventually(lambda: encrypts(proxy))
    encrypted_by_new = ask("demo-key", "encrypt")
    described_by_new = ask("decrypt-only-key", "metadata")
    shown = run_command("status", "--config", config)
    again = run_command(*block)
    files = sorted(path.name for path in state.glob("*.json"))

    # They cannot know which credentials were retired.
    assert encrypted_by_new == described_by_new == {401}
    assert shown.returncode == 1
    assert "was removed, moved away or replaced while the proxy runs" in shown.stdout
    # A command that finds another directory says that the workers do not follow it.
    assert again.returncode == (2 if lose_directory is move_away else 1)
    assert files == ([] if lose_directory is move_away else ["blocks-dev.json", "services.json"])

    shutil.rmtree(state, ignore_errors=True)
    state.with_name("elsewhere").rename(state)
    eventually(lambda: ask_admin(proxy, "/readyz/dev").status, 200)
    eventually(lambda: ask("demo-key", "encrypt"), {200})
    assert ask("decrypt-only-key", "metadata") == {200}
    assert run_command("status", "--config", config).stdout.count("keys are blocked: decrypt-only-key") == 1


def test_a_deleted_block_stays_in_force_in_real_workers_and_in_those_that_replace_them(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    run_command("block", "--keystore", "dev", "--config", proxy.environment.config).check_returncode()
    state = proxy.environment.directory / "state"
    before = {encrypts(proxy) for _ in range(10)}
    (state / "blocks-dev.json").unlink()
    eventually(lambda: ask_admin(proxy, "/readyz/dev").status, 503)

    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.log.read_text().count("configuration in place"), 2)
    after_hangup = {encrypts(proxy) for _ in range(10)}
    old = workers(proxy)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers(proxy) - old), 2)
    after_kill = {eventually(lambda: encrypts(proxy)) for _ in range(10)}

    assert before == after_hangup == {400}
    assert after_kill == {500}
    assert ask_admin(proxy, "/readyz/dev").status == 503
    found = json.loads(ask_admin(proxy, "/status").content)["conditions"]
    assert any("it was deleted; restore it" in item["text"] for item in found)


def test_a_retirement_that_is_recorded_in_another_directory_than_that_of_the_workers_is_no_success(
    own_proxy: OwnProxy,
) -> None:
    proxy = own_proxy.start()
    config, state = proxy.environment.config, proxy.environment.directory / "state"
    save_credential(proxy.environment.directory / "credentials", generate_credential())
    move_away_and_make_anew(state)
    eventually(lambda: ask_admin(proxy, "/readyz/dev").status, 503)

    retired = ("retire", proxy.credential.access_key_id, "--force")
    done = run_command("credentials", *retired, "--keystore", "dev", "--config", config)

    assert done.returncode == 1
    assert "2 of 2 workers do not confirm that they follow it" in done.stderr
    assert encrypts(proxy) == 401

"""How a worker takes up files that changed, beside a SIGHUP that comes at the same moment."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from support import PATIENCE_SECONDS
from xksproxy_tools.development.certificates import create_authority, issue, write_private

from xksproxy.config.credentials import save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.config.held_secrets import hold_secrets
from xksproxy.config.model import Config, Hsm, Key, KeyStore, Server, State, Tls
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import SecretReference
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.instance import Instance
from xksproxy.keystore.blocks import Blocks
from xksproxy.server import refused_files
from xksproxy.server import services as module
from xksproxy.server.followers import proxy_table
from xksproxy.server.services import Services
from xksproxy.server.state_tables import StateTables
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.directory_changes import DirectoryChanges
from xksproxy.state.versions import VersionRecord, version_table


@pytest.fixture
def config(tmp_path: Path) -> Config:
    authority = create_authority("services")
    for name, content in zip(("server.pem", "server-key.pem"), issue(authority, "localhost", hosts=()), strict=True):
        write_private(tmp_path / name, content)
    for name in ("credentials", "state"):
        (tmp_path / name).mkdir(0o700)
    save_credential(tmp_path / "credentials", generate_credential())
    store = KeyStore(
        name="s", uri_path_prefix="", hsms=("h",), credentials=str(tmp_path / "credentials"), keys=(Key(id="k"),)
    )
    return Config(
        server=Server(tls=Tls(certificate=str(tmp_path / "server.pem"), private_key=str(tmp_path / "server-key.pem"))),
        hsm=(Hsm(id="h", module="m", token="t"),),
        keystore=(store,),
        state=State(directory=str(tmp_path / "state")),
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Snapshots that only know their configuration; while one is built, what stands in the list happens."""
    meanwhile: list[Callable[[], None]] = []

    def build(config: Config, *_: Any, **__: Any) -> Any:
        while meanwhile:
            meanwhile.pop()()
        return SimpleNamespace(tls=config.server.tls, services={})

    monkeypatch.setattr(module, "build_snapshot", build)
    return meanwhile


def _change(config: Config) -> None:
    save_credential(Path(config.keystore[0].credentials), generate_credential())


def test_a_sighup_meanwhile_is_not_undone(config: Config, built: list[Callable[[], None]]) -> None:
    services = Services(config, Path(config.state.directory) / "run")
    newer = replace(config, server=replace(config.server, tls=replace(config.server.tls)))
    _change(config)
    services.refresh_state()
    built.append(lambda: services.replace_snapshot(newer))

    services.refresh_state()

    assert services._snapshot.tls is newer.server.tls


@pytest.mark.parametrize("error", [ConfigError(["bad"]), RuntimeError("worse")])
def test_whatever_goes_wrong_the_old_snapshot_stays(
    config: Config, built: list[Callable[[], None]], error: Exception
) -> None:
    services = Services(config, Path(config.state.directory) / "run")
    before = services._snapshot

    def fail() -> None:
        raise error

    _change(config)
    built.append(fail)
    services.refresh_state()
    services.refresh_state()

    assert services._snapshot is before


def test_what_was_refused_for_a_passing_cause_is_tried_again_and_logged_once(
    config: Config,
    built: list[Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    services = Services(config, Path(config.state.directory) / "run")
    before, now = services._snapshot, 1000.0
    monkeypatch.setattr(refused_files, "time", SimpleNamespace(monotonic=lambda: now))

    def fail() -> None:
        raise ConfigError(["too many open files"])

    _change(config)
    for _ in range(3):
        built.append(fail)
        services.refresh_state()
        services.refresh_state()
        now += 5
    assert services._snapshot is before
    assert [record.message for record in caplog.records] == ["changed credentials or certificates refused"]

    built.clear()
    services.refresh_state()

    assert services._snapshot is not before


def test_a_failure_of_one_file_keeps_no_other_from_being_read(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states = StateTables(Path(config.state.directory))
    state = states.of("s")
    block_table(Path(config.state.directory), "s").update("k", lambda _: Block(1.0))
    version_table(Path(config.state.directory), "s").update("k", lambda _: VersionRecord(7))

    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for owner in (Blocks, FingerprintRecords):
        monkeypatch.setattr(owner, "refresh", fail)
    states.refresh()

    assert state.versions.revision == 1
    assert len(caplog.records) == 3  # the blocks of all key stores too


def test_a_block_is_found_at_once_among_many_key_stores_and_waits_for_no_write(config: Config) -> None:
    directory = Path(config.state.directory)
    directory.mkdir(parents=True, exist_ok=True)
    states = StateTables(directory)
    all_states = [states.of(f"store-{number}") for number in range(60)]
    for number in range(6):
        assert states.refresh() == [], number
    all_states[55].credential_uses.mark_used("A")
    block_table(directory, "store-57").update("k", lambda _: Block(1.0))

    assert [keystore for keystore, _ in states.refresh()] == ["store-57"]
    assert states.revisions() == {"blocks-store-57.json": 1}
    assert all_states[55].credential_uses.last_used(("A",)) == {}
    states.flush_uses()
    assert "A" in all_states[55].credential_uses.last_used(("A",))


def test_a_change_that_is_not_reported_is_found_in_turn(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectoryChanges, "take", lambda _: set())
    directory = Path(config.state.directory)
    directory.mkdir(exist_ok=True)
    states = StateTables(directory)
    for number in range(60):
        states.of(f"store-{number}")
    block_table(directory, "store-57").update("k", lambda _: Block(1.0))

    # Four of 60 each time, and once more where the last ones were fewer.
    found = [keystore for _ in range(2 * 16) for keystore, _ in states.refresh()]
    assert found == ["store-57"]


def test_a_key_store_whose_state_cannot_be_read_is_looked_at_each_time(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Path(config.state.directory)
    directory.mkdir(exist_ok=True)
    states = StateTables(directory)
    for number in range(60):
        states.of(f"store-{number}")
    blocks = directory / "blocks-store-57.json"
    block_table(directory, "store-57").update("k", lambda _: Block(1.0))
    content = blocks.read_bytes()
    blocks.write_bytes(b"{")
    states.refresh()
    assert states.of("store-57").blocks.problem

    monkeypatch.setattr(DirectoryChanges, "take", lambda _: set())
    blocks.write_bytes(content)

    assert [keystore for keystore, _ in states.refresh()] == ["store-57"]


def test_what_cannot_be_watched_is_looked_at_each_time(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectoryChanges, "_watch", lambda *_: -1)
    directory = Path(config.state.directory)
    states = StateTables(directory)
    for number in range(60):
        states.of(f"store-{number}")
    states.refresh()
    block_table(directory, "store-57").update("k", lambda _: Block(1.0))

    assert [keystore for keystore, _ in states.refresh()] == ["store-57"]


def test_a_private_key_that_others_can_read_is_not_loaded(config: Config, built: list[Callable[[], None]]) -> None:
    services = Services(config, Path(config.state.directory) / "run")
    before = services._snapshot

    Path(config.server.tls.private_key).chmod(0o644)
    for _ in range(3):
        services.refresh_state()

    assert services._snapshot is before


@pytest.mark.usefixtures("built")
def test_a_state_directory_that_cannot_be_written_is_a_problem(config: Config, tmp_path: Path) -> None:
    (tmp_path / "no-directory").write_text("")
    services = Services(replace(config, state=State(directory=str(tmp_path / "no-directory"))), tmp_path / "run")
    services.refresh_state()

    assert "no-directory" in services.state.problem


def test_a_changed_pin_reaches_the_instances_and_one_that_cannot_be_read_leaves_the_old(
    config: Config, built: list[Callable[[], None]], tmp_path: Path
) -> None:
    pin = tmp_path / "pin"
    pin.write_text("1234")
    pin.chmod(0o600)
    hsm = replace(config.hsm[0], pin=SecretReference(file=str(pin)))
    held = hold_secrets(replace(config, hsm=(hsm,)))
    services = Services(held, Path(config.state.directory) / "run")

    for text, expected in (("5678", "5678"), (" 5678", "5678")):
        pin.write_text(text)
        services.refresh_state()
        services.refresh_state()

        assert read_pin(services.instances[0]._hsm).reveal() == expected


@pytest.mark.usefixtures("built")
async def test_a_start_does_not_wait_for_an_hsm_that_connects_slowly_while_each_key_store_has_another(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(
        replace(config, hsm=(*config.hsm, replace(config.hsm[0], id="slow"))), Path(config.state.directory) / "run"
    )
    instances = list(services.instances)
    stores = {"s": SimpleNamespace(fleet=SimpleNamespace(instances=instances))}
    monkeypatch.setattr(services._snapshot, "services", stores)
    monkeypatch.setattr(Instance, "serving", property(lambda instance: instance.id == "h"))
    next(instance for instance in instances if instance.id == "h")._tried.set()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await services.tried(10 * PATIENCE_SECONDS)


@pytest.mark.usefixtures("built")
async def test_a_start_waits_for_an_hsm_without_which_a_key_store_has_none(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(config, Path(config.state.directory) / "run")
    (instance,) = services.instances
    stores = {"s": SimpleNamespace(fleet=SimpleNamespace(instances=[instance]))}
    monkeypatch.setattr(services._snapshot, "services", stores)
    waiting = asyncio.create_task(services.tried(10 * PATIENCE_SECONDS))
    await asyncio.sleep(1)
    assert not waiting.done()

    instance._tried.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting


@pytest.mark.usefixtures("built")
def test_a_module_is_not_initialised_again_while_another_of_its_hsms_connects(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Hsm(id="other", module="m", token="missing")
    services = Services(replace(config, hsm=(*config.hsm, other)), Path(config.state.directory) / "run")
    connecting, missing = services.instances
    assert missing.may_reinitialize(missing)

    monkeypatch.setattr(connecting._connector, "_attempt", ("C_Login", 0.0))

    assert not missing.may_reinitialize(missing)
    assert connecting.may_reinitialize(connecting)


def test_a_worker_whose_master_has_ended_does_not_record_another_one(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Path(config.state.directory)
    services = Services(config, directory / "run")
    services.state.register()
    before = proxy_table(directory).path.read_bytes()
    monkeypatch.setattr("os.getppid", lambda: 1)

    services.state.register()

    assert proxy_table(directory).path.read_bytes() == before

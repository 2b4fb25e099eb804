"""A restored backup never opens, enables or lowers anything."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.backup import Backup, BackupRefused, accept_directory, problems_of, restore_backup, take_backup
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.credential_uses import UseRecord
from xksproxy.state.doubt import mark_doubt
from xksproxy.state.retired_credentials import RetiredCredentials, mark_retired
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import StateNumber
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import OF_ALL_KEYS, VersionRecord, version_table

RATE = 10.0


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with something in each file."""
    made = tmp_path / "state"
    made.mkdir(0o700)
    block_table(made, "s").update("early", lambda _: Block(1.0))
    block_table(made, None).update("", lambda _: Block(1.0))
    version_table(made, "s").update("k", lambda _: VersionRecord(2, proven=(1, 2), disabled=(1,)))
    SharedTable(made, "keys-s.json", KeyFingerprint).update("k", lambda _: KeyFingerprint(b"one", None))
    mark_retired(made, "s", "A")
    for _ in range(3):
        UsageBook(made).count_encryption("k", None)
    uses = UseRecord(made)
    uses.mark_used("s", "B")
    uses.flush()
    return made


def counted(state: Path, label: str = "k") -> int:
    return UsageBook(state).read(label).encryptions


def restore(state: Path, backup: Backup, seconds: float = 100.0) -> list[str]:
    return restore_backup(state, backup, RATE, backup.taken_at + seconds)


def lost(state: Path) -> None:
    shutil.rmtree(state)
    state.mkdir(0o700)


def damaged(state: Path) -> None:
    for path in (*state.glob("*.json"), *state.glob("usage/*.json")):
        path.write_text("{")


def started_anew(state: Path) -> None:
    lost(state)
    block_table(state, "s").update("late", lambda _: Block(3.0))
    version_table(state, "s").update("k", lambda _: VersionRecord(1, proven=(1, 7)))
    UsageBook(state).count_encryption("k", None)


@pytest.mark.parametrize("happens", [lost, damaged, started_anew])
def test_after_a_loss_all_that_was_closed_is_closed_and_counts_are_raised(
    state: Path, happens: Callable[[Path], None]
) -> None:
    backup, before = take_backup(state), counted(state)
    happens(state)

    for _ in range(2):
        assert restore(state, backup) == []

    assert {problem for _, problem in problems_of(state)} == {""}
    blocks = block_table(state, "s")
    blocks.refresh()
    assert {"early"} <= {*blocks.entries()} <= {"early", "late"}
    of_all = block_table(state, None)
    of_all.refresh()
    assert of_all.get("") == Block(1.0)
    versions = version_table(state, "s")
    versions.refresh()
    record, of_all_keys = versions.get("k"), versions.get(OF_ALL_KEYS)
    assert record
    assert of_all_keys
    assert (record.primary, record.disabled) == (2, (1,))
    assert {1, 2} <= {*record.proven}
    assert of_all_keys.highest >= 12
    assert not RetiredCredentials(state).accepts("s", "A")
    assert counted(state) >= before + 100 * RATE


def test_what_was_closed_since_the_backup_stays_closed(state: Path) -> None:
    backup = take_backup(state)
    block_table(state, "s").update("late", lambda _: Block(3.0))
    version_table(state, "s").update("k", lambda _: VersionRecord(3, proven=(1, 2, 3), disabled=(1, 2)))
    mark_retired(state, "s", "B")

    restore(state, backup)

    blocks, versions = block_table(state, "s"), version_table(state, "s")
    blocks.refresh()
    versions.refresh()
    assert {*blocks.entries()} == {"early", "late"}
    assert versions.get("k") == VersionRecord(3, proven=(1, 2, 3), disabled=(1, 2))
    assert [RetiredCredentials(state).accepts("s", name) for name in "ABC"] == [False, False, True]


def test_what_was_opened_since_the_backup_is_closed_again(state: Path) -> None:
    backup = take_backup(state)
    block_table(state, "s").update("early", lambda _: None)
    version_table(state, "s").update("k", lambda _: VersionRecord(2, proven=(1, 2)))

    restore(state, backup)

    blocks, versions = block_table(state, "s"), version_table(state, "s")
    blocks.refresh()
    versions.refresh()
    assert blocks.get("early") == Block(1.0)
    assert versions.get("k") == VersionRecord(2, proven=(1, 2), disabled=(1,))


def test_a_restored_file_is_newer_than_the_backup(state: Path) -> None:
    for number in range(5):
        block_table(state, "s").update("early", lambda _, number=number: Block(number))
    backup = take_backup(state)
    lost(state)

    restore(state, backup)

    document = json.loads((state / "blocks-s.json").read_bytes())
    assert document["revision"] > backup.files["blocks-s.json"]["revision"] >= 5


def test_the_number_of_a_version_that_may_have_been_made_since_is_not_used_again_in_any_key(state: Path) -> None:
    SharedTable(state, "keys-other.json", KeyFingerprint).update("x", lambda _: KeyFingerprint(b"x", None))
    backup = take_backup(state)
    lost(state)

    restore(state, backup)

    for store, least in (("s", 12), ("other", 10)):
        table = version_table(state, store)
        table.refresh()
        of_all = table.get(OF_ALL_KEYS)
        assert of_all
        assert of_all.highest >= least


def test_a_file_that_was_made_after_the_backup_and_is_lost_is_named(state: Path) -> None:
    backup = take_backup(state)
    UsageBook(state).count_encryption("new", None)
    (state / "usage" / "key-new.json").unlink()
    with pytest.raises(StateUnusable):
        take_backup(state)

    assert restore(state, backup) == ["usage/key-new.json"]

    assert counted(state, "new") >= 100 * RATE


def test_a_number_that_was_given_up_counts_as_one_that_was_used(state: Path) -> None:
    version_table(state, "s").update("k", lambda _: VersionRecord(1, highest=30, abandoned=(30,)))
    backup = take_backup(state)

    for _ in range(2):
        restore(state, backup)

    table = version_table(state, "s")
    table.refresh()
    of_all = table.get(OF_ALL_KEYS)
    assert of_all
    assert of_all.highest == 40


def test_a_disabled_version_stays_disabled_although_a_directory_that_began_anew_had_it_as_primary(state: Path) -> None:
    backup = take_backup(state)
    lost(state)
    for number in range(3, 8):
        version_table(state, "s").update("k", lambda _, number=number: VersionRecord(1, highest=number))

    restore(state, backup)

    versions = version_table(state, "s")
    versions.refresh()
    record = versions.get("k")
    assert record
    assert (record.primary, record.disabled) == (2, (1,))


@pytest.mark.parametrize("name", ["blocks-x/../../evil.json", "usage/key-a/../../../evil.json", "blocks-\0.json"])
def test_a_file_of_another_directory_in_a_backup_is_not_restored(state: Path, name: str) -> None:
    backup = take_backup(state)
    backup.files[name] = {"entries": {}, "label": "", "format": 1, "revision": 1}

    restore(state, backup)

    assert not [*state.parent.rglob("evil*")]


def test_keys_are_full_after_an_accepted_directory_has_a_number_of_a_later_time(state: Path) -> None:
    _, number = StateNumber(state).advance()

    accept_directory(state, RATE, number.at - 60)

    assert counted(state) >= 2**32


@pytest.mark.parametrize("what", ["missing", "damaged", "older"])
def test_a_key_whose_count_is_lost_is_full_after_the_directory_is_accepted(state: Path, what: str) -> None:
    record = state / "usage" / "key-k.json"
    older = record.read_bytes()
    for label in ("k", "other"):
        UsageBook(state).count_encryption(label, None)
    StateNumber(state).advance()
    record.unlink()
    if what != "missing":
        record.write_bytes(older if what == "older" else b"{")

    assert accept_directory(state, RATE, time.time() + 1) == ["usage/key-k.json"]

    assert counted(state) >= 2**32
    assert counted(state, "other") < 2**32


def test_counts_are_raised_by_the_time_that_the_witness_knows_although_the_clock_is_behind(state: Path) -> None:
    backup = take_backup(state)
    lost(state)
    mark_doubt(state, "lost", backup.taken_at + 10_000)

    restore(state, backup)

    assert counted(state) >= 10_000 * RATE


def test_a_backup_of_the_future_is_refused(state: Path) -> None:
    with pytest.raises(StateUnusable, match="set the clock"):
        restore(state, take_backup(state), seconds=-1)


_OTHER_FORMS = ([], {"k": 1}, {"k": {"primary": "one", "fingerprints": 1, "since": [], "last_used": None}})


@pytest.mark.parametrize("entries", _OTHER_FORMS, ids=str)
def test_what_is_damaged_and_still_json_is_replaced_by_the_backup(state: Path, entries: object) -> None:
    backup = take_backup(state)
    for path in (*state.glob("*.json"), *state.glob("usage/*.json")):
        path.write_text(json.dumps({"entries": entries, "encryptions": "many", "unrecorded": [], "revision": 9}))

    restore(state, backup)

    assert [problem for _, problem in problems_of(state) if problem] == []
    assert take_backup(state).files["blocks-s.json"]["entries"] == backup.files["blocks-s.json"]["entries"]


@pytest.mark.parametrize("entries", _OTHER_FORMS, ids=str)
def test_a_damaged_backup_is_refused_before_anything_is_changed(state: Path, entries: object) -> None:
    good = take_backup(state)
    for name in good.files:
        damaged_one = {"entries": entries, "format": 1, "encryptions": "many", "unrecorded": [], "id": 1}
        backup = Backup(good.taken_at, "machine", {**good.files, name: damaged_one})
        before = {path: path.read_bytes() for path in state.rglob("*.json")}
        if name.startswith("keys-") and isinstance(entries, dict) and isinstance(entries["k"], dict):
            continue  # whose entries are not looked into

        with pytest.raises(StateUnusable, match=f"the backup is damaged: {name}: "):
            restore(state, backup)

        assert {path: path.read_bytes() for path in state.rglob("*.json")} == before


@pytest.mark.parametrize("time", [-62_135_596_801.0, 253_402_300_800.0, 1e300])
def test_a_backup_with_a_time_that_cannot_be_shown_is_refused(state: Path, time: float) -> None:
    good = take_backup(state)
    block = {"format": 1, "entries": {"": {"since": time}}}

    with pytest.raises(StateUnusable, match=r"the backup is damaged: blocks-s\.json: "):
        restore(state, Backup(good.taken_at, "machine", {**good.files, "blocks-s.json": block}))


@pytest.mark.parametrize("name", ["blocks-" + "a" * 244 + ".json", "keys-" + "ä" * 122 + ".json"], ids=["own", "made"])
def test_a_name_that_no_file_can_have_is_refused_before_anything_is_changed(state: Path, name: str) -> None:
    """The second one fits, but not that of the versions of the same key store."""
    backup = take_backup(state)
    before = {path: path.read_bytes() for path in state.rglob("*.json")}

    with pytest.raises(BackupRefused, match=r"the name of a file has 25[68] bytes; expected at most 255"):
        restore(state, Backup(backup.taken_at, "machine", {**backup.files, name: {"entries": {}, "format": 1}}))

    assert {path: path.read_bytes() for path in state.rglob("*.json")} == before


def test_the_longest_name_of_a_file_is_restored(state: Path) -> None:
    backup = take_backup(state)
    name = "blocks-" + "ä" * 121 + "a.json"

    restore(state, Backup(backup.taken_at, "machine", {**backup.files, name: {"entries": {}, "format": 1}}))

    assert (state / name).exists()


def test_a_block_of_a_time_before_1970_is_in_force(state: Path) -> None:
    """Until NTP sets the clock, a machine without a battery may be there."""
    block_table(state, "s").update("k", lambda _: Block(-86_400.0))

    table = block_table(state, "s")
    table.refresh()
    assert table.entries()["k"] == Block(-86_400.0)

"""State that was never written is not looked for in one file after another, and nothing that was written is missed."""

import shutil
from pathlib import Path

import pytest

from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.server.state_tables import StateTables
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.state_file import StateFile
from xksproxy.state.versions import VersionRecord, version_table

FILES = ("blocks-s.json", "versions-s.json", "keys-s.json")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(0o700)
    return directory


def _write_all(state: Path) -> None:
    block_table(state, "s").update("k", lambda _: Block(1.0))
    version_table(state, "s").update("k", lambda _: VersionRecord(7))
    FingerprintRecords(state, "s").propose("k", KeyFingerprint(b"abc", None))


def _revisions(tables: StateTables) -> list[int]:
    found = tables.of("s")
    return [found.blocks.revision, found.versions.revision, found.fingerprints.revision]


def test_files_that_are_there_when_a_worker_starts_are_read(state: Path) -> None:
    _write_all(state)

    tables = StateTables(state)

    assert _revisions(tables) == [1, 1, 1]
    assert tables.of("s").problem == ""


def test_no_file_is_opened_for_a_key_store_without_state(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = StateTables(state)
    monkeypatch.setattr(StateFile, "read", lambda _: pytest.fail("directories were opened"))

    found = tables.of("s")
    found.blocks.refresh()
    found.versions.refresh()
    found.fingerprints.refresh()

    assert found.problem == ""
    assert found.blocks.find("k") is None


def test_what_is_written_after_a_start_is_read_at_the_next_refresh(state: Path) -> None:
    tables = StateTables(state)
    tables.of("s")
    _write_all(state)

    tables.refresh()

    assert _revisions(tables) == [1, 1, 1]


def test_a_key_store_that_is_added_later_is_read_at_once(state: Path) -> None:
    tables = StateTables(state)
    tables.refresh()
    _write_all(state)

    assert _revisions(tables) == [1, 1, 1]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_which_only_the_record_is_left_is_a_problem_from_the_start(state: Path, name: str) -> None:
    _write_all(state)
    (state / name).unlink()

    assert "it was deleted" in StateTables(state).of("s").problem


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_its_record_is_read(state: Path, name: str) -> None:
    """Earlier releases made no record."""
    _write_all(state)
    (state / "manifest" / name).unlink()

    assert _revisions(StateTables(state)) == [1, 1, 1]


def test_a_directory_that_others_can_write_is_a_problem_and_not_empty(state: Path) -> None:
    state.chmod(0o777)

    assert "others can write" in StateTables(state).of("s").problem


def test_a_directory_that_is_replaced_is_read_again(state: Path) -> None:
    tables = StateTables(state)
    tables.of("s")
    tables.refresh()
    other = state.with_name("other")
    other.mkdir(0o700)
    _write_all(other)
    shutil.rmtree(state)
    other.rename(state)

    tables.refresh()

    assert _revisions(tables) == [1, 1, 1]


def test_no_credential_is_accepted_by_a_worker_that_starts_while_the_directory_is_lost(state: Path) -> None:
    tables = StateTables(state, lambda: "the directory is lost")

    assert not tables.retired.accepts("s", "A")
    assert tables.retired.problem == "the directory is lost"

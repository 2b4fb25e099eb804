"""The audit log shows that a state directory was lost, or replaced by an older copy."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xksproxy.config.model import Audit
from xksproxy.hsm.instance.witness_records import Record, doubt_by_token, place_of
from xksproxy.state.backup import accept_directory, restore_backup, take_backup
from xksproxy.state.doubt import mark_doubt, read_doubt
from xksproxy.state.reservation import LimitReached
from xksproxy.state.state_number import StateNumber
from xksproxy.state.usage import UsageBook
from xksproxy.state.witness import Witness
from xksproxy.telemetry import state_witness
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.state_witness import MESSAGE, WitnessLines, doubt_of, note_doubt


class Machine:
    """A state directory and the audit log beside it."""

    def __init__(self, home: Path, form: str = "json") -> None:
        self.state, self.copy, self.log = home / "state", home / "copy", home / "audit.log"
        self.changes = 0
        self._form = form
        self.state.mkdir(0o700)
        self.restart()

    def restart(self) -> None:
        self._lines = WitnessLines(self.state, lambda: self.changes)

    def change(self) -> bool:
        """Something changes; whether a line was written."""
        self.changes += 1
        return self.follow()

    def follow(self) -> bool:
        fields = self._lines.take()
        if fields is None:
            return False
        settings = Audit(file=str(self.log), format="console" if self._form == "console" else "json")
        audit = AuditLog(settings, None)
        audit.write(MESSAGE, lambda: fields)
        audit.close()
        return True

    def keep_a_copy(self) -> None:
        shutil.copytree(self.state, self.copy)

    def put_the_copy_back(self) -> None:
        shutil.rmtree(self.state)
        shutil.copytree(self.copy, self.state)

    def lose(self) -> None:
        shutil.rmtree(self.state)
        self.state.mkdir(0o700)

    @property
    def state_id(self) -> str:
        found = StateNumber(self.state).read()
        assert found is not None
        return found[1].id

    @property
    def config(self) -> Any:
        """As much of a configuration as names the witness."""
        state = SimpleNamespace(directory=str(self.state), witness=None)
        return SimpleNamespace(state=state, audit=Audit(file=str(self.log)))

    @property
    def doubt(self) -> str:
        return doubt_of(self.state, self.log)


@pytest.fixture(params=["json", "console"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


def test_a_first_start_is_in_no_doubt(machine: Machine) -> None:
    assert machine.doubt == ""
    machine.log.write_text("a line of an earlier release\n")
    assert machine.doubt == ""


def test_the_newest_directory_is_in_no_doubt(machine: Machine) -> None:
    for _ in range(3):
        assert machine.change()
        assert machine.doubt == ""
        assert not machine.follow()


def test_an_older_copy_is_in_doubt(machine: Machine) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()

    machine.put_the_copy_back()

    assert "is an older copy: it has number 1" in machine.doubt
    assert "xksproxy state restore" in machine.doubt


def test_a_number_that_is_older_than_its_record_is_in_doubt_without_a_witness(machine: Machine) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()

    shutil.copy2(machine.copy / "number.json", machine.state / "number.json")

    assert "is an older copy, revision 1 of 2" in doubt_of(machine.state, None)


def test_an_older_copy_that_has_reached_the_same_number_is_in_doubt(machine: Machine) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()
    machine.put_the_copy_back()

    WitnessLines(machine.state, lambda: 0).take()

    assert "was an older copy: it got its number 2 at another time" in machine.doubt


def test_a_lost_directory_is_in_doubt_also_when_it_was_begun_anew(machine: Machine) -> None:
    machine.change()
    machine.lose()
    assert "has no number, as after a loss" in machine.doubt

    WitnessLines(machine.state, lambda: 0).take()

    assert "is another one" in machine.doubt


def test_a_directory_that_was_moved_is_the_same(machine: Machine) -> None:
    machine.change()
    moved = machine.state.with_name("moved")
    machine.state.rename(moved)

    assert doubt_of(moved, machine.log) == ""


def test_an_older_copy_at_another_place_is_in_doubt(machine: Machine) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()

    assert "is an older copy" in doubt_of(machine.copy, machine.log)


def test_another_proxy_may_write_to_the_same_log(machine: Machine) -> None:
    machine.change()
    other = Machine.__new__(Machine)
    other.__dict__.update(machine.__dict__)
    other.state = machine.state.with_name("other")
    other.state.mkdir(0o700)
    other.restart()
    for _ in range(3):
        assert doubt_of(other.state, machine.log) == ""
        assert other.change()

    assert machine.doubt == ""


@pytest.mark.parametrize("name", ["audit.log.1", "audit.log-20261129"])
def test_the_witness_may_be_in_a_rotated_file(machine: Machine, name: str) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()
    machine.put_the_copy_back()
    machine.log.rename(machine.log.with_name(name))
    machine.log.write_bytes(b"a request\n" * 300_000)

    assert "is an older copy" in machine.doubt


def test_what_a_client_sends_is_no_witness(machine: Machine) -> None:
    machine.change()
    forged = f'"message":"state","state_number":9,"state_directory":"{machine.state}"'
    audit = AuditLog(Audit(file=str(machine.log), format="json"), None)
    audit.write("request", lambda: {"reason": forged, "state_id": "x", "state_number": 9, "state_at": 9e9})
    audit.write(f"request state  pid=1 {forged}", dict)
    audit.close()

    assert machine.doubt == ""


def test_zeros_after_a_power_failure_hide_no_line_and_are_not_collected(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()
    with machine.log.open("ab") as file:
        file.truncate(file.tell() + 5 * 1024 * 1024)
    longest = 0

    def measured(line: bytes) -> Witness | None:
        nonlocal longest
        longest = max(longest, len(line))
        return parsed(line)

    parsed = state_witness._parsed
    monkeypatch.setattr(state_witness, "_parsed", measured)
    monkeypatch.setattr(state_witness, "_MARKS", (b"",))
    machine.put_the_copy_back()

    assert "is an older copy" in machine.doubt
    assert longest < 2 * 1024 * 1024


def test_half_a_line_at_the_end_is_passed_over(machine: Machine) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()
    with machine.log.open("rb+") as file:
        content = file.read()
        file.write(content.splitlines(keepends=True)[-1][:60])
    machine.put_the_copy_back()

    assert "is an older copy" in machine.doubt


def restore(machine: Machine) -> None:
    restore_backup(machine.state, take_backup(machine.copy), 10, time.time())


def accept(machine: Machine) -> None:
    accept_directory(machine.state, 10, time.time())


@pytest.mark.parametrize("settle", [restore, accept])
def test_a_settled_directory_is_in_no_doubt_and_its_own_older_copies_are(
    machine: Machine, settle: Callable[[Machine], None]
) -> None:
    machine.change()
    machine.keep_a_copy()
    machine.change()
    machine.put_the_copy_back()
    mark_doubt(machine.state, machine.doubt)

    settle(machine)

    assert machine.doubt == read_doubt(machine.state) == ""
    machine.restart()
    assert machine.change()
    assert machine.doubt == ""
    machine.put_the_copy_back()
    assert "is another one" in machine.doubt


def test_a_clock_that_was_behind_hides_no_older_copy_of_a_settled_directory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.change()
    accept(machine)
    machine.restart()
    machine.change()
    machine.keep_a_copy()
    late = time.time() - 60 * 86_400
    monkeypatch.setattr("xksproxy.state.state_number.time.time", lambda: late)
    machine.change()

    machine.put_the_copy_back()

    assert "is an older copy" in machine.doubt


@pytest.mark.parametrize("settle", [restore, accept])
@pytest.mark.parametrize("by", ["audit log", "token"])
def test_a_clock_that_was_ahead_before_a_loss_keeps_no_directory_in_doubt(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, settle: Callable[[Machine], None], by: str
) -> None:
    ahead = time.time() + 60 * 86_400
    with monkeypatch.context() as patch:
        patch.setattr("xksproxy.state.state_number.time.time", lambda: ahead)
        machine.change()
    known = Witness(machine.state_id, 1, ahead, place_of(machine.state))
    machine.lose()
    if by == "token":
        mark_doubt(machine.state, *doubt_by_token(machine.state, "hsm", [Record(1, known)]))
    else:
        note_doubt(machine.config)
    assert machine.doubt

    settle(machine)

    assert machine.doubt == ""
    assert not doubt_by_token(machine.state, "hsm", [Record(1, known)])
    machine.restart()
    assert machine.change()
    machine.keep_a_copy()
    assert machine.change()
    machine.put_the_copy_back()
    assert "is an older copy" in machine.doubt


def test_no_line_is_written_in_doubt(machine: Machine) -> None:
    machine.change()
    mark_doubt(machine.state, "an older copy")

    assert not machine.change()
    assert machine.doubt.startswith("an older copy")


def test_a_damaged_mark_is_a_doubt_too(machine: Machine) -> None:
    (machine.state / "doubt.json").write_bytes(b"")

    assert "doubt.json" in machine.doubt


def test_encryptions_raise_the_number_once_a_minute(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("xksproxy.telemetry.state_witness.time.monotonic", lambda: now)
    book = UsageBook(machine.state)
    book.count_encryption("k", None)
    assert machine.change()
    machine.follow()
    written = []
    for seconds in (30, 61, 125, 190):
        now += seconds
        os.utime(machine.state / "usage", (seconds, seconds if seconds < 190 else 125))
        written.append(machine.follow())

    assert written == [False, True, True, False]


def encryptions(machine: Machine, label: str) -> int:
    return UsageBook(machine.state).read(label).encryptions


def test_counts_of_an_accepted_copy_are_raised_by_what_may_have_been_made(machine: Machine) -> None:
    UsageBook(machine.state).count_encryption("k", None)
    machine.change()
    before = encryptions(machine, "k")

    accept_directory(machine.state, 10, time.time() + 100)

    assert before + 1000 <= encryptions(machine, "k") <= before + 1100
    assert 1000 <= encryptions(machine, "without-record") <= 1100


def test_after_a_loss_a_key_without_a_record_counts_as_full_and_a_new_one_does_not(machine: Machine) -> None:
    machine.change()
    machine.lose()

    accept(machine)

    book = UsageBook(machine.state)
    book.begin("made-since")
    book.begin("made-since")
    book.count_encryption("made-since", 2**32)
    with pytest.raises(LimitReached):
        book.count_encryption("found", 2**32)
    assert book.has_record("made-since")
    assert not book.has_record("found")


def test_what_an_unrecorded_key_counts_survives_a_backup(machine: Machine) -> None:
    machine.change()
    machine.lose()
    accept(machine)
    backup = take_backup(machine.state)
    machine.lose()

    restore_backup(machine.state, backup, 0, time.time())

    assert encryptions(machine, "found") > 2**32

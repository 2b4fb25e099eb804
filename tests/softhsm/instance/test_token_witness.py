"""A data object on the token knows the number of the state directory."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace as replace_field
from pkcs11 import Attribute, ObjectClass
from support import eventually

from xksproxy.encoding import encode_json
from xksproxy.hsm.errors import HsmError, TokenUnavailable
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.token_witness import TokenWitness
from xksproxy.hsm.instance.witness_records import LABEL, Record, place_of, read_records
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.state.backup import accept_directory
from xksproxy.state.doubt import read_doubt
from xksproxy.state.witness import Witness
from xksproxy.telemetry.state_witness import WitnessLines, doubt_of

START = 1_800_000_000.0


class Hsm:
    """An HSM that serves, with a session on the token of the tests."""

    id = "softhsm"
    serving = True

    def __init__(self, session: HsmSession) -> None:
        self.session = session
        self.connect: Callable[[], None] = lambda: None
        self.writes = 0

    def read_when_connected(self, read: Callable[[HsmSession], None]) -> None:
        self.connect = lambda: read(self.session)

    def on_own_session(self, work: Callable[[HsmSession], None]) -> None:
        self.writes += 1
        work(self.session)


class Failing:
    """A session that finds no data objects, because the token fails."""

    def __init__(self, working: HsmSession, error: Exception = CryptokiError("C_FindObjectsInit", 6)) -> None:  # noqa: B008
        self.working, self._error = working, error

    def data_objects(self, _: str) -> Any:
        raise self._error


class Machine:
    """A state directory, and a process that uses it."""

    def __init__(self, home: Path, session: HsmSession, clock: SimpleNamespace) -> None:
        self.state, self.copy, self._clock = home / "state", home / "copy", clock
        self.state.mkdir(0o700)
        self.hsm = Hsm(session)
        self.changes = 0
        self.begin()

    def begin(self) -> None:
        """A process begins, and connects its HSM."""
        self.witness = TokenWitness(self.state, [self.hsm])
        self.lines = WitnessLines(self.state, lambda: self.changes, lambda: self.witness.unread)
        self.hsm.connect()

    def change(self) -> None:
        self.changes += 1
        self.follow()

    def count(self) -> None:
        """The number is raised although nothing but counts has changed."""
        self.lines._last = None
        self.follow()

    def follow(self) -> None:
        self.lines.take()
        self.witness.keep(self.lines.newest, self.changes)
        eventually(lambda: not any(token.is_in_use for token in self.witness._tokens))

    def pass_time(self, seconds: float) -> None:
        self._clock.now += seconds

    @property
    def records(self) -> list[Record]:
        return [item for item in read_records(self.hsm.session) if item.witness and self._is_here(item)]

    def _is_here(self, item: Record) -> bool:
        return item.witness is not None and item.witness.state_directory == place_of(self.state)

    @property
    def numbers(self) -> list[int]:
        return [item.number for item in self.records]

    def put_the_copy_back(self) -> None:
        shutil.rmtree(self.state)
        shutil.copytree(self.copy, self.state)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=START)
    times = SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now)
    monkeypatch.setattr("xksproxy.hsm.instance.token_witness.time", times)
    monkeypatch.setattr("xksproxy.hsm.instance.witness_records.time", times)
    monkeypatch.setattr("xksproxy.state.state_number.time", times)
    return clock


@pytest.fixture
def machine(tmp_path: Path, session: HsmSession, clock: SimpleNamespace) -> Iterator[Machine]:
    _clear(session)
    yield Machine(tmp_path, session, clock)
    _clear(session)


def _clear(session: HsmSession) -> None:
    """The token may have objects of proxies of other tests."""
    for item in session.data_objects(LABEL).read():
        session.data_objects(LABEL).destroy(item)


def test_the_token_keeps_a_private_object_with_the_number(machine: Machine) -> None:
    machine.change()

    assert machine.numbers == [1]
    (found,) = machine.hsm.session.binding.get_objects({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: LABEL})
    kept = found[Attribute.TOKEN], found[Attribute.PRIVATE], found[Attribute.APPLICATION]
    assert kept == (True, True, place_of(machine.state))


def test_an_older_copy_is_marked_before_the_hsm_serves(machine: Machine) -> None:
    machine.change()
    shutil.copytree(machine.state, machine.copy)
    machine.pass_time(60)
    machine.change()

    machine.put_the_copy_back()
    machine.begin()

    assert "it has number 1, but the token of HSM softhsm" in machine.witness.doubt
    assert "knows number 2" in read_doubt(machine.state)
    machine.pass_time(3600)
    machine.change()
    assert machine.numbers == [2]


def test_yesterdays_state_with_yesterdays_token_is_known_to_the_audit_log_alone(machine: Machine) -> None:
    machine.change()
    shutil.copytree(machine.state, machine.copy)
    objects = machine.hsm.session.data_objects(LABEL)
    (yesterday,) = objects.read().values()
    machine.pass_time(60)
    machine.change()
    log = machine.state.with_name("audit.log")
    log.write_bytes(encode_json({"message": "state", **to_builtins(machine.lines.newest)}))

    machine.put_the_copy_back()
    for handle in objects.read():
        objects.destroy(handle)
    objects.create(yesterday, "")
    machine.begin()

    assert machine.witness.doubt == ""
    assert "it has number 1, but the audit log" in doubt_of(machine.state, log)


def test_a_lost_directory_is_in_doubt(machine: Machine) -> None:
    machine.change()
    shutil.rmtree(machine.state)
    machine.state.mkdir(0o700)

    machine.begin()

    assert "has no number, as after a loss" in machine.witness.doubt


def test_the_number_is_not_raised_before_a_token_was_read(machine: Machine) -> None:
    machine.change()
    machine.witness = TokenWitness(machine.state, [machine.hsm])
    machine.lines = WitnessLines(machine.state, lambda: machine.changes, lambda: machine.witness.unread)

    assert machine.lines.take() is None
    machine.hsm.connect()
    assert machine.lines.take() is not None


def test_a_token_whose_reading_failed_in_passing_is_read_again_before_the_number_is_raised(machine: Machine) -> None:
    machine.change()
    shutil.copytree(machine.state, machine.copy)
    for _ in range(2):
        machine.pass_time(60)
        machine.change()
    machine.put_the_copy_back()
    machine.hsm.session = Failing(machine.hsm.session)  # type: ignore[assignment]
    machine.begin()
    for _ in range(5):
        machine.change()
    assert machine.lines.newest is None
    assert "it cannot be read: C_FindObjectsInit: CKR_FUNCTION_FAILED" in machine.witness.problem

    machine.hsm.session = machine.hsm.session.working  # type: ignore[attr-defined]
    machine.pass_time(10)
    machine.change()

    assert machine.witness.problem == ""
    assert "it has number 1, but the token" in machine.witness.doubt


@pytest.mark.parametrize("error", [CryptokiError("C_FindObjectsInit", 6), HsmError("it keeps none")])
def test_a_token_that_is_never_read_stops_the_number_for_less_than_a_minute(machine: Machine, error: Exception) -> None:
    working = machine.hsm.session
    machine.hsm.session = Failing(working, error)  # type: ignore[assignment]
    machine.begin()
    numbered = []
    for _ in range(5):
        machine.change()
        numbered.append(machine.lines.newest is not None)
        machine.pass_time(10)

    assert numbered == ([False, False, False, False, True] if isinstance(error, CryptokiError) else [True] * 5)


def test_the_newest_directory_is_in_no_doubt(machine: Machine) -> None:
    for _ in range(3):
        machine.change()
        machine.pass_time(60)
        machine.begin()
        assert machine.witness.doubt == read_doubt(machine.state) == ""


def test_the_token_is_written_once_a_minute_at_most_also_by_other_processes(machine: Machine) -> None:
    written = []
    for seconds in (0, 1, 30, 28, 1, 59, 1):
        machine.pass_time(seconds)
        machine.begin()
        machine.change()
        written.append(machine.numbers[-1])

    assert written == [1, 1, 1, 1, 5, 5, 7]


def test_a_change_that_had_to_wait_is_written_later(machine: Machine) -> None:
    machine.change()
    machine.change()
    machine.follow()
    assert machine.numbers == [1]

    machine.pass_time(60)
    machine.follow()

    assert machine.numbers == [2]


def test_counts_alone_are_written_once_an_hour(machine: Machine) -> None:
    machine.change()
    written = []
    for seconds in (60, 3539, 1, 3599, 1):
        machine.pass_time(seconds)
        machine.count()
        written.append(machine.numbers[-1])

    assert written == [1, 1, 4, 4, 6]
    assert machine.hsm.writes == 3


def test_only_the_newest_object_of_a_machine_remains(machine: Machine) -> None:
    for _ in range(4):
        machine.change()
        machine.pass_time(60)
    objects = machine.hsm.session.data_objects(LABEL)
    for _ in range(2):  # as after kills between the making of an object and the removal of the last one
        objects.create(next(iter(objects.read().values())), "")

    machine.change()

    assert machine.numbers == [5]


def test_machines_that_share_a_token_do_not_take_each_other_for_themselves(
    machine: Machine, session: HsmSession, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(3):
        machine.change()
        machine.pass_time(60)
    monkeypatch.setattr("xksproxy.hsm.instance.witness_records.platform.node", lambda: "machine-2")
    machine.state.rename(tmp_path / "state-of-1")  # the path is the same on each machine
    other = Machine(tmp_path, session, clock)
    assert other.witness.doubt == ""
    other.change()
    monkeypatch.undo()

    assert len(read_records(session)) == 2
    assert other.hsm.writes == 1
    assert [item.number for item in read_records(session)] == [3, 1]


def test_a_directory_that_was_moved_to_another_machine_is_the_same(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.change()
    shutil.copytree(machine.state, machine.copy)
    machine.pass_time(60)
    machine.change()
    monkeypatch.setattr("xksproxy.hsm.instance.witness_records.platform.node", lambda: "machine-2")

    machine.begin()
    assert machine.witness.doubt == ""
    machine.put_the_copy_back()
    machine.begin()
    assert "is an older copy" in machine.witness.doubt


def test_a_settled_directory_replaces_what_the_token_knew(machine: Machine) -> None:
    machine.change()
    shutil.copytree(machine.state, machine.copy)
    machine.pass_time(60)
    machine.change()
    machine.put_the_copy_back()
    machine.pass_time(60)
    accept_directory(machine.state, 10, START + 120)

    machine.begin()
    assert machine.witness.doubt == ""
    machine.change()

    (record,) = machine.records
    assert record.is_of(machine.lines.newest.state_id)  # type: ignore[union-attr]
    machine.put_the_copy_back()
    machine.begin()
    assert "is another one" in machine.witness.doubt


def test_two_machines_of_one_name_are_in_no_doubt_once_each_has_its_object(
    machine: Machine, session: HsmSession, clock: SimpleNamespace, tmp_path: Path
) -> None:
    machine.change()
    machine.state.rename(tmp_path / "state-of-1")
    other = Machine(tmp_path, session, clock)
    assert "has no number" in other.witness.doubt
    (other.state / "doubt.json").unlink()
    accept_directory(other.state, 10, START - 1)  # by the clock of the second, the first has written since
    other.begin()
    assert "is another one" in other.witness.doubt
    accept_directory(other.state, 10, START)
    other.begin()
    other.change()

    first = Witness("of-the-first", 7, START + 30, place_of(other.state))
    session.data_objects(LABEL).create(encode_json(first), first.state_directory)
    clock.now += 60
    other.change()

    assert {item.number for item in read_records(session)} == {7, 4}
    for _ in range(2):
        other.begin()
        assert other.witness.doubt == ""


def test_a_newer_number_is_never_replaced_but_is_a_doubt(machine: Machine) -> None:
    machine.change()
    (record,) = machine.records
    assert record.witness is not None
    newer = replace_field(record.witness, state_number=9)
    machine.hsm.session.data_objects(LABEL).create(encode_json(newer), "")
    machine.pass_time(60)

    machine.change()

    assert 9 in machine.numbers
    assert "it has number 2, but the token of HSM softhsm" in read_doubt(machine.state)


def test_a_token_that_refuses_data_objects_is_named_and_serves(
    machine: Machine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    machine.hsm.session = HsmSession(connection, connection._token.open(rw=False))
    machine.begin()
    for _ in range(3):
        machine.change()
        machine.pass_time(60)

    machine.hsm.session.close()
    assert machine.witness.problem == "softhsm: it cannot be written: C_CreateObject: CKR_SESSION_READ_ONLY"
    assert machine.witness.doubt == ""
    assert machine.lines.newest is not None
    assert [record.message for record in caplog.records] == ["token is no witness of the state"]


def test_a_module_that_keeps_no_data_objects_is_not_asked(machine: Machine) -> None:
    session = machine.hsm.session
    before, session._quirks = session._quirks, replace(session._quirks, data_objects=False)
    machine.begin()
    machine.change()
    session._quirks = before

    assert "keeps no data objects" in machine.witness.problem
    assert machine.lines.newest is not None
    assert machine.numbers == []


def test_what_was_refused_may_succeed_later(machine: Machine) -> None:
    good, machine.hsm.on_own_session = machine.hsm.on_own_session, _no_session  # type: ignore[method-assign]
    machine.change()
    assert machine.witness.problem == "softhsm: it cannot be written: no session: CKR_SESSION_COUNT"

    machine.hsm.on_own_session = good  # type: ignore[method-assign]
    machine.follow()
    assert machine.numbers == []
    machine.pass_time(60)
    machine.follow()

    assert machine.numbers == [1]
    assert machine.witness.problem == ""


def _no_session(_: Any) -> None:
    raise TokenUnavailable("no session: CKR_SESSION_COUNT")


def test_one_of_several_tokens_is_enough(machine: Machine, connection: Connection) -> None:
    refusing = Hsm(HsmSession(connection, connection._token.open(rw=False)))
    refusing.id = "refusing"
    machine.witness = TokenWitness(machine.state, [refusing, machine.hsm])
    refusing.connect()
    machine.hsm.connect()

    machine.change()

    refusing.session.close()
    assert machine.witness.problem == ""
    assert [token.problem for token in machine.witness._tokens] == [
        "it cannot be written: C_CreateObject: CKR_SESSION_READ_ONLY",
        "",
    ]


def test_a_token_full_of_objects_gets_no_further_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xksproxy.hsm.instance.token_witness._MOST_OBJECTS", 2)
    objects = machine.hsm.session.data_objects(LABEL)
    for _ in range(2):
        objects.create(b"of a machine that is gone", "gone:/state")

    machine.change()

    assert len(objects.read()) == 2
    assert "the token has 2 objects xksproxy-state; remove those of machines that are gone" in machine.witness.problem


def test_nothing_waits_for_a_token_that_hangs(machine: Machine) -> None:
    ended = threading.Event()
    begun = threading.Semaphore(0)

    def hang(_: Any) -> None:
        begun.release()
        ended.wait()

    machine.hsm.on_own_session = hang  # type: ignore[method-assign]
    machine.lines.take()
    for _ in range(3):
        machine.pass_time(3600)
        machine.witness.keep(machine.lines.newest, machine.changes)

    assert begun.acquire(timeout=20)
    ended.set()
    assert not begun.acquire(blocking=False)


def test_a_process_that_reads_while_another_one_writes_finds_the_newer_object(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.change()
    machine.pass_time(60)
    cryptoki = machine.hsm.session._cryptoki
    find = cryptoki.find_objects

    def find_and_write(*arguments: Any) -> list[int]:
        found = find(*arguments)
        monkeypatch.setattr(cryptoki, "find_objects", find)
        machine.change()
        return found

    monkeypatch.setattr(cryptoki, "find_objects", find_and_write)

    assert machine.numbers == [2]

"""A state directory that cannot be written is noticed before an encryption fails on it."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from support import small_file_system

from xksproxy.state import directory_check as module
from xksproxy.state.directory_check import StateDirectoryCheck


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic", made.monotonic)
    return made


@pytest.mark.usefixtures("clock")
def test_a_directory_that_can_be_written_is_no_problem(tmp_path: Path) -> None:
    check = StateDirectoryCheck(tmp_path)
    check.refresh()

    assert check.problem == ""


def test_a_directory_that_cannot_be_written_is_one_until_it_can_be(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "state").write_text("no directory")
    check = StateDirectoryCheck(tmp_path / "state")
    check.refresh()
    found = check.problem
    (tmp_path / "state").unlink()
    (tmp_path / "state").mkdir(0o700)
    check.refresh()
    too_soon = check.problem
    clock.now += 10
    check.refresh()

    assert str(tmp_path / "state") in found
    assert too_soon == found
    assert check.problem == ""


def test_a_file_system_that_gives_no_locks_is_one_until_it_does(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    check = StateDirectoryCheck(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        check.refresh()
    assert check.problem == f"{tmp_path}/check.json: No locks available"

    clock.now += 10
    check.refresh()

    assert check.problem == ""


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    usage = tmp_path / "state" / "usage"
    usage.mkdir(0o700, parents=True)
    old, new = usage / ".key-a.json.1234.partial", usage / ".key-b.json.1234.partial"
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))

    StateDirectoryCheck(tmp_path / "state").refresh()

    assert not old.exists()
    assert new.exists()


def test_the_reserve_leaves_the_room_that_others_need(clock: Clock) -> None:
    with small_file_system(size=1 << 20) as disk:
        state = disk / "state"
        state.mkdir(0o700)
        check = StateDirectoryCheck(state)
        check.refresh()
        (state / "reserve").unlink()
        filler, room = disk / "filler", os.statvfs(disk)
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - (256 << 10)))
        for _ in range(3):
            clock.now += 10
            check.refresh()
            assert check.problem == ""

        filler.unlink()
        clock.now += 10
        check.refresh()
        assert (state / "reserve").stat().st_size > 0

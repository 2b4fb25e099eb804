"""Files of the state directory that several processes share."""

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from access_lists import let

from xksproxy.state import private_files, state_file
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateFile, StateUnusable, file_lock, replace_file


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int


CORRUPT = [b"", b"{", b"[]", b'{"a":{"number":"1"}}', b'{"a":{"number":1,"more":2}}', b'{"a\xff":{"number":1}}', b"\0"]

# Adds 1 to an entry that all share and to one of its own, so many times.
ADDING = """
import sys
from pathlib import Path
import msgspec
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable

class Count(msgspec.Struct, frozen=True):
    number: int

def one_more(entry):
    return Count(entry.number + 1 if entry else 1)

table = SharedTable(Path(sys.argv[1]).parent, Path(sys.argv[1]).name, Count)
for name in ("shared", sys.argv[2]) * int(sys.argv[3]):
    while True:
        try:
            table.update(name, one_more)
            break
        except StateUnusable as error:
            if "another process" not in str(error):
                raise
"""

# Takes the lock of a file, says so, and keeps it until it is killed.
HOLDING = """
import sys, time
from pathlib import Path
from xksproxy.state.state_file import file_lock
with file_lock(Path(sys.argv[1]), 10):
    print("held", flush=True)
    time.sleep(600)
"""


def one_more(entry: Count | None) -> Count:
    return Count(entry.number + 1 if entry else 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(0o700)
    return tmp_path / "state" / "table.json"


@pytest.fixture
def table(path: Path) -> Callable[[], SharedTable[Count]]:
    """The table as another process opens it."""
    return lambda: SharedTable(path.parent, path.name, Count)


def test_a_table_that_never_was_is_empty(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    fresh = table()

    fresh.refresh()

    assert fresh.get("a") is None
    assert not any(path.parent.iterdir())


def test_a_directory_that_has_vanished_is_not_made_again(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    path.parent.rmdir()

    with pytest.raises(StateUnusable, match="No such file or directory"):
        table().update("a", one_more)

    assert not path.parent.exists()


def test_what_one_table_changes_others_see_when_they_refresh(table: Callable[[], SharedTable[Count]]) -> None:
    one, other = table(), table()
    for number in range(1, 4):
        assert one.update("a", one_more) == Count(number)
        assert one.get("a") == Count(number)
        assert other.get("a") == (Count(number - 1) if number > 1 else None)

        other.refresh()

        assert other.get("a") == Count(number)


def test_a_change_is_made_of_the_entry_as_it_is_on_disk_and_leaves_the_others(
    table: Callable[[], SharedTable[Count]],
) -> None:
    one, other = table(), table()
    one.update("a", one_more)
    other.update("b", one_more)
    other.update("a", one_more)

    assert one.update("a", one_more) == Count(3)
    assert one.get("b") == Count(1)


def test_entries_are_added_only_under_new_names(table: Callable[[], SharedTable[Count]]) -> None:
    one, other = table(), table()
    other.update("a", one_more)

    assert one.add({"a": Count(8), "b": Count(9)}) == {"a": Count(1), "b": Count(9)}

    other.refresh()
    assert other.entries() == {"a": Count(1), "b": Count(9)}


def test_an_entry_is_removed_by_returning_none(table: Callable[[], SharedTable[Count]]) -> None:
    one, other = table(), table()
    one.update("a", one_more)
    one.update("b", one_more)

    assert one.update("a", lambda _: None) is None

    other.refresh()
    assert (one.get("a"), other.get("a"), other.get("b")) == (None, None, Count(1))


def test_a_change_that_changes_nothing_writes_nothing(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    one = table()
    assert one.update("a", lambda entry: entry) is None
    assert not path.exists()
    one.update("a", one_more)
    before = written(path)

    assert one.update("a", lambda entry: entry) == Count(1)

    assert written(path) == before


def written(path: Path) -> tuple[int, ...]:
    """Changes with each write. The time of the last access changes with a read."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def test_a_change_that_fails_changes_nothing_and_releases_the_lock(table: Callable[[], SharedTable[Count]]) -> None:
    def fail(_: Count | None) -> Count:
        raise KeyError("refused")

    one = table()
    one.update("a", one_more)
    with pytest.raises(KeyError):
        one.update("a", fail)

    assert table().update("a", one_more) == Count(2)


def test_changes_of_several_processes_at_once_are_all_kept(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    times, names = 25, ["one", "two", "three", "four"]
    running = [subprocess.Popen([sys.executable, "-c", ADDING, str(path), name, str(times)]) for name in names]

    assert [process.wait(100) for process in running] == [0] * len(names)

    final = table()
    final.refresh()
    assert final.get("shared") == Count(times * len(names))
    assert [final.get(name) for name in names] == [Count(times)] * len(names)


def test_the_lock_of_a_killed_process_is_released(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateUnusable, match="another process holds its lock"), file_lock(path, 0):
            pytest.fail("it was held")
        holder.kill()

    assert table().update("a", one_more) == Count(1)


def test_a_lock_is_waited_for_no_longer_than_allowed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = 100.0, []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now + sum(pauses)

        @staticmethod
        def sleep(seconds: float) -> None:
            pauses.append(seconds)

    monkeypatch.setattr(state_file, "time", Clock)
    with file_lock(path, 0), pytest.raises(StateUnusable, match="holds its lock"), file_lock(path, 1.0):
        pytest.fail("it was held")

    assert sum(pauses) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("content", CORRUPT)
def test_a_file_that_cannot_be_read_is_refused_and_neither_ignored_nor_overwritten(
    table: Callable[[], SharedTable[Count]], path: Path, content: bytes
) -> None:
    one = table()
    one.update("a", one_more)
    one.refresh()
    path.write_bytes(content)

    with pytest.raises(StateUnusable, match=r"table\.json"):
        one.refresh()
    with pytest.raises(StateUnusable, match=r"table\.json"):
        one.update("a", one_more)
    with pytest.raises(StateUnusable, match=r"table\.json"):
        table().refresh()

    assert one.get("a") == Count(1)
    assert path.read_bytes() == content


def test_a_file_that_was_repaired_is_read_again(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    one = table()
    path.write_bytes(b"nonsense")
    with pytest.raises(StateUnusable):
        one.refresh()

    path.write_bytes(b'{"a":{"number":7}}')

    one.refresh()
    assert one.get("a") == Count(7)


def test_a_file_that_vanishes_while_it_is_read_does_not_empty_the_table(
    table: Callable[[], SharedTable[Count]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = table()
    one.update("a", one_more)
    one.refresh()
    table().update("a", one_more)
    signature = StateFile.signature

    def signature_then_delete(file: StateFile) -> tuple[int, ...] | None:
        seen = signature(file)
        path.unlink()
        return seen

    monkeypatch.setattr(StateFile, "signature", signature_then_delete)
    with pytest.raises(StateUnusable, match="it was deleted"):
        one.refresh()

    assert one.get("a") == Count(1)


@pytest.mark.parametrize("parent", ["a file", "a file/below", "n" * 300])
def test_a_directory_that_cannot_be_is_refused(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a file").write_text("")

    with pytest.raises(StateUnusable):
        SharedTable(tmp_path / parent, "table.json", Count).update("a", one_more)
    with pytest.raises(StateUnusable):
        SharedTable(tmp_path / parent, "table.json", Count).refresh()


def test_a_file_is_replaced_as_a_whole_and_is_the_owners_alone(
    table: Callable[[], SharedTable[Count]], path: Path
) -> None:
    table().update("a", one_more)
    with path.open("rb") as before:
        table().update("a", one_more)

        expected = {"entries": {"a": {"number": 1}}, "file": path.name, "format": 1, "revision": 1}
        assert json.loads(before.read()) == expected
    assert json.loads(path.read_bytes()) == {**expected, "entries": {"a": {"number": 2}}, "revision": 2}
    modes = {file.name: file.stat().st_mode & 0o777 for file in [path.parent, *path.parent.iterdir()]}
    assert modes == {"state": 0o700, "manifest": 0o700, "table.json": 0o600, "table.lock": 0o600}


def test_what_a_killed_writer_left_behind_does_not_matter(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    table().update("a", one_more)
    path.with_name(".table.json.0123456789abcdef.partial").write_bytes(b"half of something much longer than the file")

    assert table().update("a", one_more) == Count(2)


def test_a_content_that_cannot_be_written_leaves_the_old_one(
    table: Callable[[], SharedTable[Count]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = table()
    one.update("a", one_more)
    content = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateUnusable, match="No space left on device"):
        one.update("a", one_more)
    with pytest.raises(StateUnusable):
        replace_file(path, b"{}")

    assert one.get("a") == Count(1)
    assert path.read_bytes() == content
    assert not list(path.parent.glob(".*"))


# --- What became of a file, as a process that was not there finds out


def lose(path: Path, how: str) -> None:  # noqa: C901 - one branch for each accident
    """Do to a state file of revision 3 what accidents and backups do."""
    older = path.with_name("older")
    match how:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(path.read_bytes()[:-7])
        case "no file":
            path.unlink()
            path.mkdir()
        case "replaced by a link":
            path.rename(older)
            path.symlink_to(older)
        case "replaced by a pipe":
            path.unlink()
            os.mkfifo(path)
        case "writable by others":
            path.chmod(0o666)
        case "an older copy":
            document = json.loads(path.read_bytes())
            path.write_text(json.dumps({**document, "revision": 2}))
        case "a copy of an older release":
            path.write_bytes(b'{"a":{"number":1}}')
        case "of a later format":
            document = json.loads(path.read_bytes())
            path.write_text(json.dumps({**document, "format": 2}))
        case "its record torn":
            path.parent.joinpath("manifest", path.name).write_bytes(b"{")


LOSSES = [
    "deleted",
    "emptied",
    "torn",
    "no file",
    "replaced by a link",
    "replaced by a pipe",
    "writable by others",
    "an older copy",
    "a copy of an older release",
    "of a later format",
]


@pytest.mark.parametrize("how", [*LOSSES, "its record torn"])
def test_a_file_that_is_not_what_was_last_written_is_refused_by_the_next_process_too(
    table: Callable[[], SharedTable[Count]], path: Path, how: str
) -> None:
    for _ in range(3):
        table().update("a", one_more)
    lose(path, how)

    next_process = table()
    for use in (next_process.refresh, lambda: next_process.update("a", one_more)):
        with pytest.raises(StateUnusable, match=r"table\.json"):
            use()
    assert next_process.entries() == {}


@pytest.mark.parametrize("how", LOSSES)
def test_a_running_process_refuses_it_and_keeps_what_it_knew(
    table: Callable[[], SharedTable[Count]], path: Path, how: str
) -> None:
    running = table()
    for _ in range(3):
        table().update("a", one_more)
    running.refresh()
    path.parent.joinpath("manifest", path.name).unlink()
    lose(path, how)

    left = path.read_bytes() if path.is_file() else None

    for use in (running.refresh, running.refresh, lambda: running.update("a", one_more)):
        with pytest.raises(StateUnusable, match=r"table\.json"):
            use()
    assert (running.get("a"), running.revision) == (Count(3), 3)
    assert (path.read_bytes() if path.is_file() else None) == left


@pytest.mark.parametrize("entries", ["null", "[]", '{"a":{"number":"1"}}', "[" * 900 + "]" * 900])
def test_after_damaged_entries_of_a_later_revision_the_right_file_is_no_older_copy(
    table: Callable[[], SharedTable[Count]], path: Path, entries: str
) -> None:
    running = table()
    running.update("a", one_more)
    right = path.read_bytes()
    path.write_text(f'{{"format":1,"revision":99999,"entries":{entries}}}')
    for use in (running.refresh, lambda: running.update("a", one_more)):
        with pytest.raises(StateUnusable, match=r"table\.json"):
            use()

    path.write_bytes(right)

    running.refresh()
    assert running.update("a", one_more) == Count(2)


def test_a_lost_record_is_written_again(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    table().update("a", one_more)
    record = path.parent / "manifest" / path.name
    record.unlink()

    table().refresh()

    assert json.loads(record.read_bytes()) == {"revision": 1}


def test_a_writer_may_be_killed_before_it_records_a_change(
    table: Callable[[], SharedTable[Count]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table().update("a", one_more)
    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "record", lambda _: None)
        table().update("a", one_more)

    assert table().update("a", one_more) == Count(3)


def test_a_change_that_is_not_recorded_is_reported_as_in_force(
    table: Callable[[], SharedTable[Count]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table().update("a", one_more)
    record = path.parent / "manifest" / path.name
    record.unlink()
    record.mkdir()
    (record / "in the way").touch()
    one = table()
    monkeypatch.setattr(StateFile, "recorded", lambda _: 1)

    with pytest.raises(StateUnusable, match="is in force, but it is not recorded"):
        one.update("a", one_more)


def test_a_change_that_is_repeated_is_recorded_if_its_writer_had_no_room(
    table: Callable[[], SharedTable[Count]], path: Path
) -> None:
    for _ in range(3):
        table().update("a", one_more)
    record = path.parent / "manifest" / path.name
    record.write_bytes(b'{"revision":1}')

    table().update("a", lambda known: known)

    assert json.loads(record.read_bytes()) == {"revision": 3}


def test_a_change_whose_directory_cannot_be_synced_is_reported_as_in_force(
    table: Callable[[], SharedTable[Count]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table().update("a", one_more)
    sync = os.fsync

    def fail_for_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_for_directories)
        with pytest.raises(StateUnusable, match="Input/output error; the change is in force"):
            table().update("a", one_more)

    other = table()
    other.refresh()
    assert other.get("a") == Count(2)
    assert table().update("a", one_more) == Count(3)


# --- Formats


def test_a_file_of_a_release_without_format_number_is_read_recorded_and_replaced(
    table: Callable[[], SharedTable[Count]], path: Path
) -> None:
    path.write_bytes(b'{"a":{"number":7},"format":{"number":8}}')

    one = table()
    one.refresh()
    assert (one.get("a"), one.get("format"), one.revision) == (Count(7), Count(8), 0)
    assert json.loads((path.parent / "manifest" / path.name).read_bytes()) == {"revision": 0}

    assert one.update("a", one_more) == Count(8)
    other = table()
    other.refresh()
    assert (other.get("format"), other.revision) == (Count(8), 1)


def test_fields_of_a_later_release_are_kept(path: Path) -> None:
    class Known(msgspec.Struct, frozen=True):
        number: int

    entries = {"a": {"number": 1, "later": [2]}, "b": {"number": 3, "later": 4}}
    path.write_text(json.dumps({"format": 1, "revision": 5, "entries": entries, "later": {"x": 6}}))

    SharedTable(path.parent, path.name, Known).update("a", lambda entry: Known(entry.number + 10 if entry else 0))

    entries["a"]["number"] = 11
    known = {"file": path.name, "format": 1, "revision": 6}
    assert json.loads(path.read_bytes()) == {**known, "entries": entries, "later": {"x": 6}}


# --- A lock that cannot be had, and hostile names


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO])
def test_a_lock_that_the_file_system_refuses_makes_the_state_unusable(
    table: Callable[[], SharedTable[Count]], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(StateUnusable, match=os.strerror(code)):
        table().update("a", one_more)


@pytest.mark.parametrize("name", ["table.json", "table.lock", "manifest", "manifest/table.json"])
@pytest.mark.parametrize("kind", ["link to a file", "link to nothing", "pipe", "hard link"])
def test_what_was_planted_under_a_name_that_is_used_is_refused_by_name_and_nothing_is_written_through_it(
    table: Callable[[], SharedTable[Count]], path: Path, tmp_path: Path, name: str, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"root's own")
    os.chown(victim, *((65534, 65534) if os.geteuid() == 0 else (-1, -1)))
    planted = path.parent / name
    planted.parent.mkdir(0o700, parents=True, exist_ok=True)
    match kind:
        case "link to a file":
            planted.symlink_to(victim)
        case "link to nothing":
            planted.symlink_to(tmp_path / "made by another")
        case "pipe":
            os.mkfifo(planted)
        case "hard link":
            if os.geteuid():
                pytest.skip("needs a file of another user")
            planted.hardlink_to(victim)

    with pytest.raises(StateUnusable) as refused:
        table().update("a", one_more)

    # Whoever follows the advice removes what was planted, and not the file that it was planted for.
    reason = {
        "link to a file": "is a symbolic link, which is not followed; remove it",
        "link to nothing": "is a symbolic link, which is not followed; remove it",
        "pipe": "is not a directory; remove it" if name == "manifest" else "is not a regular file; remove it",
        "hard link": "is not a directory; remove it" if name == "manifest" else "belongs to",
    }[kind]
    assert f": {planted.name} {reason}" in str(refused.value)

    assert victim.read_bytes() == b"root's own"
    assert not (tmp_path / "made by another").exists()


def test_a_directory_that_others_can_write_is_refused(table: Callable[[], SharedTable[Count]], path: Path) -> None:
    path.parent.chmod(0o777)

    with pytest.raises(StateUnusable, match="others can write"):
        table().update("a", one_more)


@pytest.mark.parametrize("name", [".", "table.json", "manifest", "manifest/table.json"])
def test_what_an_acl_lets_another_user_change_is_refused(
    table: Callable[[], SharedTable[Count]], path: Path, name: str
) -> None:
    table().update("a", one_more)
    let(path.parent / name, 6, user=54321)

    with pytest.raises(StateUnusable, match="its ACL lets user 54321 change it"):
        table().update("a", one_more)


@pytest.mark.parametrize("name", ["table.json", "manifest/table.json"])
def test_a_file_that_is_too_large_is_refused_with_its_size_before_it_is_read(
    table: Callable[[], SharedTable[Count]], path: Path, name: str
) -> None:
    table().update("a", one_more)
    os.truncate(path.parent / name, 400_000_000)

    tracemalloc.start()
    try:
        with pytest.raises(StateUnusable) as refused:
            table().refresh()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert f"{path.parent / name}: table.json has 400000000 bytes; at most 67108864" in str(refused.value)
    assert peak < 1_000_000


def test_a_change_that_could_not_be_read_again_is_refused(
    table: Callable[[], SharedTable[Count]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table().update("a", one_more)
    before = path.read_bytes()
    monkeypatch.setattr(private_files, "MAXIMUM_BYTES", 200)

    with pytest.raises(StateUnusable, match="at most 200 are read and written"):
        table().update("b" * 200, one_more)

    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == {path, path.with_suffix(".lock"), path.parent / "manifest"}


def test_a_hundred_thousand_blocks_are_kept(tmp_path: Path) -> None:
    name, reason = "k" * 122, "r" * 200
    blocks = {f"{name}{number:06}": {"since": 1.5, "reason": reason} for number in range(100_000)}
    table = block_table(tmp_path, "dev")
    StateFile(tmp_path, table.path.name).write({"entries": blocks})

    table.update("one more", lambda _: Block(2.5, "incident"))

    again = block_table(tmp_path, "dev")
    again.refresh()
    assert len(again.entries()) == 100_001
    assert table.path.stat().st_size < private_files.MAXIMUM_BYTES * 2 / 3


@pytest.mark.parametrize("together", [False, True])
def test_a_reader_between_the_steps_of_a_change_does_not_alter_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """A worker reads records on one thread while another one writes them."""
    file = StateFile(tmp_path, "file.json")
    file.write({"a": 1})

    def replace_and_read(replace: Callable[..., None]) -> Callable[..., None]:
        def replaced(*arguments: object, **more: object) -> None:
            replace(*arguments, **more)
            file.read()

        return replaced

    name = "replace_files_of" if together else "replace_file_of"
    with monkeypatch.context() as patch:
        patch.setattr(state_file, name, replace_and_read(getattr(state_file, name)))
        if together:
            state_file.write_together({file: {"a": 2}})
        else:
            file.write({"a": 2})

    assert StateFile(tmp_path, "file.json").read() == {"a": 2, "file": "file.json", "format": 1, "revision": 2}
    file.write({"a": 3})
    assert json.loads((tmp_path / "file.json").read_text())["revision"] == 3


def test_the_revision_that_was_read_with_other_entries_is_refused(
    table: Callable[[], SharedTable[Count]], path: Path
) -> None:
    running = table()
    running.update("a", lambda _: Count(7))
    path.write_bytes(path.read_bytes().replace(b'"number":7', b'"number":8'))

    with pytest.raises(StateUnusable, match=r"its revision is still 1, and its entries are others"):
        running.refresh()

    assert running.get("a") == Count(7)


def test_a_copy_of_another_file_is_refused_although_it_has_a_higher_revision(tmp_path: Path) -> None:
    own, other = (SharedTable(tmp_path, name, Count) for name in ("own.json", "other.json"))
    own.update("a", one_more)
    for _ in range(3):
        other.update("b", one_more)

    shutil.copy2(other.path, own.path)

    for table in (own, SharedTable(tmp_path, "own.json", Count)):
        with pytest.raises(StateUnusable, match=r"it is a copy of other\.json"):
            table.refresh()
    assert own.get("a") == Count(1)

"""How often a key has encrypted, counted by several processes: never below the true count, even if they are killed."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import eventually

from xksproxy.state import reservation, usage, usage_records
from xksproxy.state.backup import accept_directory
from xksproxy.state.reservation import LimitReached
from xksproxy.state.state_file import StateFile, StateUnusable
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_records import KeyUsage, UsageRecords

LABELS = st.text(min_size=1, max_size=40) | st.text("aä/.%\0~ -", min_size=1, max_size=300)
RECORD = "key-demo.json"

# Counts encryptions up to the maximum, returns the unused ones, and prints how many it counted.
COUNT_TO_MAXIMUM = """
import sys
from pathlib import Path
from xksproxy.state.state_file import StateFile, StateUnusable
from xksproxy.state.reservation import LimitReached
from xksproxy.state.usage import UsageBook

book, counted = UsageBook(Path(sys.argv[1])), 0
while True:
    try:
        book.count_encryption("demo", int(sys.argv[2]))
        counted += 1
    except LimitReached:
        break
    except StateUnusable as error:
        if "another process" not in str(error):
            raise
book.return_unused()
print(counted)
"""

# Appends a byte to a file after each counted encryption, until it is killed.
COUNT_UNTIL_KILLED = """
import os, sys
from pathlib import Path
from xksproxy.state.state_file import StateFile, StateUnusable
from xksproxy.state.usage import UsageBook

book = UsageBook(Path(sys.argv[1]))
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    try:
        book.count_encryption("demo", None)
    except StateUnusable as error:
        if "another process" not in str(error):
            raise
    else:
        os.write(log, b".")
"""


class Clock:
    """A clock that only a test advances."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


class AtOnce:
    """A thread that runs its target when it is started."""

    def __init__(self, target: Callable[..., None], args: tuple[object, ...], daemon: bool) -> None:
        self.start = lambda: target(*args)


@pytest.fixture
def book(tmp_path: Path) -> UsageBook:
    return UsageBook(tmp_path)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The record of the label `demo`."""
    return tmp_path / "usage" / RECORD


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replaces the clock; threads run their target at once."""
    clock = Clock()
    for module in (usage, usage_records, reservation):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(usage, "threading", SimpleNamespace(Lock=threading.Lock, Thread=AtOnce))
    return clock


def count(book: UsageBook, times: int, maximum: int | None = None) -> None:
    for _ in range(times):
        book.count_encryption("demo", maximum)


def count_all(book: UsageBook, maximum: int) -> int:
    """How many encryptions are allowed."""
    for spent in range(maximum + 1):
        try:
            book.count_encryption("demo", maximum)
        except LimitReached:
            return spent
    raise AssertionError("more encryptions were allowed than the maximum")


def on_record(book: UsageBook) -> int:
    return book.read("demo").encryptions


def test_whether_an_encryption_is_reserved_is_known_without_a_call_to_the_disk(
    book: UsageBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(book.names, "read", lambda _: pytest.fail("it was read"))
        assert not book.count_if_reserved("first", 100)

    book.count_encryption("first", 100)
    monkeypatch.setattr(book.names, "read", lambda _: pytest.fail("it was read"))
    assert book.count_if_reserved("first", 100)


def test_no_encryption_waits_for_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    reasons = ["", "it does not answer"]
    book = UsageBook(tmp_path, lambda: reasons.pop(0))
    book.count_encryption("key", 100)

    with pytest.raises(StateUnusable, match="it does not answer"):
        book.count_encryption("key", 100)


def test_what_was_never_used_has_no_record(book: UsageBook, tmp_path: Path) -> None:
    assert book.read("demo") == KeyUsage("demo", 0, None, None)
    assert list(book.records.read_all()) == []
    assert not (tmp_path / "usage").exists()


def test_an_encryption_is_on_record_before_it_is_made(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    for spent in range(1, 200):
        count(book, 1)

        assert on_record(UsageBook(tmp_path)) >= spent


def test_unused_encryptions_are_returned(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    count(book, 21)
    book.count_encryption("other", None)

    book.return_unused()

    assert {(known.label, known.encryptions) for known in UsageBook(tmp_path).records.read_all()} == {
        ("demo", 21),
        ("other", 1),
    }


def test_unused_encryptions_of_many_keys_are_returned_with_few_syncs(
    book: UsageBook, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(250):
        book.count_encryption(f"key-{number}", None)
    synced: list[int] = []
    monkeypatch.setattr("xksproxy.state.private_files.os.fsync", synced.append)

    book.return_unused()

    assert len(synced) <= 3
    assert {known.encryptions for known in UsageBook(tmp_path).records.read_all()} == {1}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_return_that_takes_too_long_leaves_counts_that_are_too_high(book: UsageBook, tmp_path: Path) -> None:
    for number in range(250):
        book.count_encryption(f"key-{number}", None)

    book.return_unused(0)

    assert {known.encryptions for known in UsageBook(tmp_path).records.read_all()} == {16}


def test_a_file_that_cannot_be_written_keeps_its_count_and_no_other_one(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    for label in ("a", "b", "c"):
        book.count_encryption(label, None)
    (tmp_path / "usage" / "key-b.json").write_text("nonsense")

    book.return_unused()

    known = UsageBook(tmp_path)
    assert (known.read("a").encryptions, known.read("c").encryptions) == (1, 1)
    assert (tmp_path / "usage" / "key-b.json").read_text() == "nonsense"


def test_returning_twice_or_nothing_changes_nothing(book: UsageBook, clock: Clock) -> None:
    book.return_unused()
    count(book, 3)
    book.return_unused()
    book.return_unused()

    assert on_record(book) == 3


def test_counting_goes_on_after_unused_encryptions_were_returned(book: UsageBook, clock: Clock) -> None:
    for _ in range(3):
        count(book, 5)
        book.return_unused()

    assert on_record(book) == 15


def test_a_block_that_is_reserved_during_the_return_is_not_lost(
    book: UsageBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(AtOnce):
        """A thread that runs only when no encryption can follow."""

        def __init__(self, target: Callable[..., None], args: tuple[object, ...], daemon: bool) -> None:
            late.append(lambda: target(*args))
            self.start = lambda: None

    late: list[Callable[[], None]] = []
    monkeypatch.setattr(usage, "threading", SimpleNamespace(Lock=threading.Lock, Thread=Late))
    count(book, 16)
    book.return_unused()
    for work in late:
        work()

    assert late
    assert on_record(book) == 16


@pytest.mark.parametrize("maximum", [1, 2, 15, 16, 17, 100, 1000])
def test_a_key_encrypts_up_to_its_maximum_and_no_more(book: UsageBook, clock: Clock, maximum: int) -> None:
    assert count_all(book, maximum) == maximum
    for _ in range(3):
        clock.now += 10
        with pytest.raises(LimitReached):
            book.count_encryption("demo", maximum)

    assert on_record(book) == maximum
    book.return_unused()
    assert on_record(book) == maximum


def test_an_idle_process_holds_few_of_the_last_encryptions(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    idle = UsageBook(tmp_path)
    count(idle, 1, maximum=80)

    assert count_all(book, 80) >= 70


def test_a_higher_maximum_allows_further_encryptions(book: UsageBook, clock: Clock) -> None:
    count_all(book, 20)
    clock.now += 1

    count(book, 10, maximum=30)
    with pytest.raises(LimitReached):
        book.count_encryption("demo", 30)


def test_the_log_warns_at_each_percentage_of_the_maximum_once(
    book: UsageBook, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        book.count_encryption("demo", 1000)

    warned = [record.fields for record in caplog.records if "nears its maximum" in record.message]  # type: ignore[attr-defined]
    assert [fields["percent"] for fields in warned] == [50, 80, 95, 100]
    assert {(fields["label"], fields["maximum"]) for fields in warned} == {("demo", 1000)}
    assert all(fields["encryptions"] * 100 >= fields["percent"] * 1000 for fields in warned)


def test_a_process_that_begins_to_use_a_key_warns_of_the_highest_percentage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    UsageBook(tmp_path).records.add("demo", 850, None, 0)
    UsageBook(tmp_path).count_encryption("demo", 1000)

    (record,) = caplog.records
    assert record.fields["percent"] == 80  # type: ignore[attr-defined]


def test_a_refusal_is_repeated_for_a_second_without_reading_the_record(
    book: UsageBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_all(book, 20)
    with monkeypatch.context() as patch:
        patch.setattr(UsageRecords, "_read", None)
        for later in (0.5, 0.4):
            clock.now += later
            with pytest.raises(LimitReached):
                book.count_encryption("demo", 20)

    clock.now += 0.2
    with pytest.raises(LimitReached):
        book.count_encryption("demo", 20)


def test_only_one_thread_waits_for_a_lock_that_another_process_holds(
    book: UsageBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    @contextmanager
    def locked(_: StateFile, timeout: float) -> Iterator[None]:
        waits.append(timeout)
        clock.now += timeout
        raise StateUnusable("another process holds its lock")
        yield

    monkeypatch.setattr(StateFile, "locked", locked)
    for _ in range(5):
        with pytest.raises(StateUnusable, match="holds its lock"):
            book.count_encryption("demo", None)

    assert len(waits) == 1


def test_blocks_grow_while_they_do_not_last(book: UsageBook, clock: Clock) -> None:
    totals = []
    for _ in range(3000):
        count(book, 1)
        totals.append(on_record(book))

    assert sorted(set(totals)) == [16, 16 + 64, 16 + 64 + 256, 16 + 64 + 256 + 1024, 16 + 64 + 256 + 1024 + 4096]


def test_a_process_reserves_no_more_than_its_largest_blocks(book: UsageBook, clock: Clock) -> None:
    count(book, 100_000)

    assert on_record(book) <= 100_000 + 1.5 * 16_384


def test_blocks_stay_small_while_they_last(book: UsageBook, clock: Clock) -> None:
    for spent in range(1, 100):
        count(book, 1)
        clock.now += 2

        assert on_record(book) <= spent + 16 + 8


def test_no_request_waits_for_the_disk_but_the_first(book: UsageBook, clock: Clock) -> None:
    count(book, 1)
    book._count_from_new_block = None  # type: ignore[assignment, method-assign]

    count(book, 5000)


def test_the_time_of_the_last_encryption_is_recorded_once_a_minute(book: UsageBook, clock: Clock) -> None:
    assert book.read("demo").last_encrypted is None
    count(book, 1)
    assert book.read("demo").last_encrypted == clock.time()
    first = clock.time()

    clock.now += 59
    count(book, 1)
    assert book.read("demo").last_encrypted == first

    clock.now += 1
    count(book, 1)
    assert book.read("demo").last_encrypted == clock.time()
    book.return_unused()
    assert on_record(book) == 3


def test_the_time_of_the_last_decryption_is_recorded_once_a_minute(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    book.record_decryption("demo")
    first = clock.time()
    assert UsageBook(tmp_path).read("demo") == KeyUsage("demo", 0, None, first)

    clock.now += 59
    book.record_decryption("demo")
    assert book.read("demo").last_decrypted == first

    clock.now += 1
    book.record_decryption("demo")
    assert book.read("demo").last_decrypted == clock.time()


def test_decryptions_and_encryptions_do_not_change_each_others_times(book: UsageBook, clock: Clock) -> None:
    count(book, 4)
    clock.now += 5
    book.record_decryption("demo")
    book.return_unused()

    assert book.read("demo") == KeyUsage("demo", 4, clock.time() - 5, clock.time())


def test_a_decryption_is_recorded_on_a_separate_thread(book: UsageBook, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []

    class Observed(threading.Thread):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr(usage, "threading", SimpleNamespace(Lock=threading.Lock, Thread=Observed))
    book.record_decryption("demo")
    (thread,) = started
    thread.join()

    assert thread.daemon
    assert book.read("demo").last_decrypted is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"encryptions":1}',
        b'{"label":"demo","encryptions":"1"}',
        b'{"label":"demo","encryptions":-1}',
        b'{"label":"d\xff"}',
        b"\0" * 4096,
    ],
)
def test_a_record_that_cannot_be_read_is_refused_and_neither_ignored_nor_overwritten(
    book: UsageBook, clock: Clock, record: Path, content: bytes
) -> None:
    record.parent.mkdir()
    record.write_bytes(content)

    for use in (lambda: count(book, 1), lambda: book.read("demo"), lambda: list(book.records.read_all())):
        with pytest.raises(StateUnusable, match=RECORD):
            use()
    book.record_decryption("demo")
    book.return_unused()

    assert record.read_bytes() == content


def test_a_directory_that_cannot_be_written_stops_encryption_but_not_decryption(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "state").write_text("no directory")
    book = UsageBook(tmp_path / "state")

    with pytest.raises(StateUnusable):
        count(book, 1)
    book.record_decryption("demo")
    book.return_unused()


def test_a_full_disk_stops_encryption_after_the_reserved_encryptions(
    book: UsageBook, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(book, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        count(book, 15)
        with pytest.raises(StateUnusable, match="No space left on device"):
            count(book, 1)

    clock.now += 1
    count(book, 1)
    assert on_record(UsageBook(tmp_path)) >= 17


def lose(record: Path, how: str) -> None:
    record.unlink()
    if how == "with its directory":
        for rest in record.parent.iterdir():
            rest.unlink()
        record.parent.rmdir()
    elif how == "an older copy":
        record.write_bytes(b'{"format":1,"revision":1,"label":"demo","encryptions":16}')
    elif how == "a copy of an older release":
        record.write_bytes(b'{"label":"demo","encryptions":1000000}')


@pytest.mark.parametrize("how", ["removed", "with its directory", "an older copy", "a copy of an older release"])
def test_a_lost_count_is_not_started_again_by_any_process(
    book: UsageBook, clock: Clock, record: Path, tmp_path: Path, how: str
) -> None:
    count(book, 40)
    reader, stranger = UsageBook(tmp_path), UsageBook(tmp_path)
    reader.read("demo")
    lose(record, how)

    with pytest.raises(StateUnusable, match=RECORD):
        count(book, 200)
    clock.now += 100
    for process in (book, reader, stranger):
        process.record_decryption("demo")
        process.records.check()
        assert RECORD in process.records.problem
        with pytest.raises(StateUnusable, match=RECORD):
            process.read("demo")
        with pytest.raises(StateUnusable, match=RECORD):
            count(process, 1)


@pytest.mark.parametrize("damage", ['"encryptions":"1"', '"encryptions":1'])
def test_after_a_damaged_count_of_a_later_revision_the_right_one_is_no_older_copy(
    book: UsageBook, clock: Clock, record: Path, damage: str
) -> None:
    count(book, 40)
    right = record.read_bytes()
    record.write_text(f'{{"format":1,"revision":99999,"label":"demo",{damage}}}')
    with pytest.raises(StateUnusable, match=RECORD):
        count(book, 200)

    record.write_bytes(right)

    clock.now += 100
    count(book, 200)


@pytest.mark.parametrize("how", ["removed", "with its directory", "an older copy"])
def test_nothing_is_returned_to_a_lost_count(book: UsageBook, clock: Clock, record: Path, how: str) -> None:
    count(book, 18)
    lose(record, how)
    left = record.read_bytes() if record.exists() else None

    book.return_unused()

    assert (record.read_bytes() if record.exists() else None) == left


def test_a_record_that_is_restored_counts_on(book: UsageBook, clock: Clock, record: Path) -> None:
    count(book, 40)
    content = record.read_bytes()
    lose(record, "removed")
    book.records.check()
    record.write_bytes(content)
    clock.now += 1
    book.records.check()

    count(book, 200)
    assert book.records.problem == ""


# --- A maximum that changes, and a clock that does


def test_encryptions_that_are_reserved_obey_a_lowered_maximum(book: UsageBook, clock: Clock) -> None:
    count(book, 400)
    assert on_record(book) > 1000

    for maximum in (100, 400, 410):
        clock.now += 1
        assert not book.count_if_reserved("demo", maximum)
        with pytest.raises(LimitReached):
            book.count_encryption("demo", maximum)

    assert book.count_if_reserved("demo", None)


def test_two_processes_together_obey_a_lowered_maximum(book: UsageBook, clock: Clock) -> None:
    other = UsageBook(book.directory)
    count(book, 200, maximum=2**32)
    count(other, 200, maximum=2**32)

    for process in (book, other):
        with pytest.raises(LimitReached):
            count(process, 21, maximum=420)


def test_what_is_reserved_is_used_under_a_lowered_maximum_that_the_record_has_not_reached(
    book: UsageBook, clock: Clock
) -> None:
    count(book, 20, maximum=2**32)

    count(book, 200, maximum=400)


def test_of_two_key_stores_with_one_label_each_has_its_own_maximum(book: UsageBook, clock: Clock) -> None:
    count(book, 336, maximum=2**32)

    with pytest.raises(LimitReached):
        book.count_encryption("demo", 40)
    count(book, 3000, maximum=2**32)
    with pytest.raises(LimitReached):
        book.count_encryption("demo", 40)


def test_the_time_of_the_last_use_never_goes_back(book: UsageBook, clock: Clock) -> None:
    book.record_decryption("demo")
    count(book, 1)
    before = book.read("demo")

    late = UsageBook(book.directory)
    clock.now -= 60 * 86_400
    late.record_decryption("demo")
    count(late, 1)

    assert book.read("demo").last_decrypted == before.last_decrypted
    assert book.read("demo").last_encrypted == before.last_encrypted


def test_unknown_fields_of_a_record_are_kept(book: UsageBook, clock: Clock, record: Path) -> None:
    record.parent.mkdir()
    record.write_bytes(b'{"format":1,"revision":7,"label":"demo","encryptions":5,"later":[1]}')

    count(book, 1)

    written = json.loads(record.read_bytes())
    assert (written["later"], written["revision"], written["encryptions"]) == ([1], 8, 21)


@given(label=LABELS)
@example("../../etc/passwd")
@example("..")
@example("/")
@example("a" * 300)
@example("ä" * 300)
@example("\0")
def test_any_label_has_a_file_of_its_own_in_the_directory(tmp_path_factory: pytest.TempPathFactory, label: str) -> None:
    directory = tmp_path_factory.mktemp("state")
    book = UsageBook(directory)
    book.count_encryption(label, 1)

    assert UsageBook(directory).read(label).label == label
    assert UsageBook(directory).read(label).encryptions == 1
    assert [known.label for known in book.records.read_all()] == [label]
    directories = {directory / "usage", directory / "manifest" / "usage"}
    assert {path.parent for path in directory.rglob("*.json")} == directories


@given(one=LABELS, other=LABELS)
@example("a/b", "a%2Fb")
@example("a", "A")
@example("a", "a.json")
@example("a" * 300, "a" * 301)
@example("/" * 200 + "a", "/" * 200 + "b")
@example("a" * 150, "a" * 151)
def test_different_labels_never_share_a_file(one: str, other: str) -> None:
    book = UsageBook(Path("state"))
    path, other_path = book.records._file(one).path, book.records._file(other).path

    assert (path == other_path) == (one == other)
    assert path.with_suffix(".lock") != other_path


def test_threads_together_never_get_more_than_the_maximum(book: UsageBook) -> None:
    spent: list[int] = []
    threads = [threading.Thread(target=lambda: spent.append(count_all(book, 300))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    book.return_unused()

    assert sum(spent) == on_record(book) <= 300


@pytest.mark.parametrize("maximum", [3, 100, 2000])
def test_processes_together_never_get_more_than_the_maximum(book: UsageBook, tmp_path: Path, maximum: int) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT_TO_MAXIMUM, str(tmp_path), str(maximum)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]

    spent = [int(process.communicate(timeout=100)[0]) for process in processes]

    assert 0 < sum(spent) <= maximum
    assert on_record(book) == sum(spent)
    assert count_all(book, maximum) == maximum - sum(spent)


def test_processes_that_are_killed_at_any_moment_have_made_no_encryption_that_is_not_on_record(
    book: UsageBook, tmp_path: Path
) -> None:
    log, chance = tmp_path / "log", random.Random(4)
    log.touch()
    for _ in range(6):
        begun = log.stat().st_size
        command = [sys.executable, "-c", COUNT_UNTIL_KILLED, str(tmp_path), str(log)]
        processes = [subprocess.Popen(command) for _ in range(3)]
        enough = begun + chance.randrange(1, 2000)
        while log.stat().st_size < enough:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.001)
        for process in processes:
            process.kill()
            process.wait()

        assert on_record(book) >= log.stat().st_size > begun

    count(book, 1)


def test_a_newer_record_with_fewer_encryptions_than_this_process_reserved_is_refused(tmp_path: Path) -> None:
    """A file that somebody wrote by hand, say, with a revision that is right."""
    book = UsageBook(tmp_path)
    book.count_encryption("demo", None)
    file = StateFile(tmp_path, f"usage/{RECORD}")
    document = file.read() or {}
    file.write({**document, "encryptions": 0})

    def use_what_is_reserved_and_one_more() -> None:
        for _ in range(document["encryptions"] + 1):
            book.count_encryption("demo", None)

    with pytest.raises(StateUnusable, match="its count is lost"):
        use_what_is_reserved_and_one_more()


def test_the_first_block_of_a_process_is_larger_for_a_busy_key(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    count(book, 100_000, 2**32)
    book.return_unused()

    count(UsageBook(tmp_path), 1, 2**32)

    assert on_record(book) == 100_000 + 1_024


def test_the_first_block_of_a_busy_key_is_small_if_little_remains(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    count(book, 100_000, 200_000)
    book.return_unused()

    count(UsageBook(tmp_path), 1, 200_000)

    assert on_record(book) == 100_000 + 16


def test_the_next_block_is_reserved_when_half_of_a_larger_first_block_is_used(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    count(book, 100_000, 2**32)
    book.return_unused()

    count(UsageBook(tmp_path), 513, 2**32)

    assert on_record(book) > 100_000 + 1_024


def test_encryptions_that_were_reserved_ahead_are_counted_without_the_disk(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    book.count_encryption("demo", 2**32)
    before = book.read("demo")
    again = UsageBook(tmp_path)
    clock.now += 10

    again.reserve_ahead("demo", 2**32)

    after = again.read("demo")
    assert after.encryptions == before.encryptions + 16
    assert after.last_encrypted == before.last_encrypted
    assert again.count_if_reserved("demo", 2**32)


def test_nothing_is_reserved_ahead_twice_or_near_the_maximum(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    count(book, 1)
    again = UsageBook(tmp_path)

    again.reserve_ahead("demo", 1_000_000)
    assert on_record(book) == 16
    again.reserve_ahead("demo", 1_000_016)
    again.reserve_ahead("demo", 1_000_016)

    assert on_record(book) == 32


def test_a_record_that_cannot_be_read_reserves_nothing_ahead(book: UsageBook, record: Path, tmp_path: Path) -> None:
    count(book, 1)
    record.write_text("{")

    UsageBook(tmp_path).reserve_ahead("demo", 2**32)

    assert record.read_text() == "{"


def test_the_records_of_recent_encryptions_come_newest_first(book: UsageBook, clock: Clock) -> None:
    for number in range(4):
        clock.now += 1_000
        book.count_encryption(f"key-{number}", None)
        os.utime(book.directory / "usage" / f"key-key-{number}.json", (clock.time(), clock.time()))
    clock.now += 500

    recent = book.records.recent(2_000, 10)

    assert [record.label for record in recent] == ["key-3", "key-2"]
    assert [record.label for record in book.records.recent(9_000, 1)] == ["key-3"]


def test_after_an_accepted_loss_a_key_without_a_record_is_full_and_one_that_is_made_since_is_new(
    book: UsageBook,
) -> None:
    accept_directory(book.directory, 1.0, time.time())
    again = UsageBook(book.directory)

    with pytest.raises(LimitReached):
        again.count_encryption("demo", 2**32)
    again.begin("new")
    again.count_encryption("new", 2**32)
    again.begin("new")

    assert again.read("new").encryptions == 16


def test_a_process_that_starts_later_refuses_a_record_that_was_removed_with_that_in_the_manifest(
    book: UsageBook, record: Path, tmp_path: Path
) -> None:
    count(book, 1)
    known = book.revisions
    record.unlink()
    (tmp_path / "manifest" / "usage" / RECORD).unlink()

    later = UsageBook(tmp_path, known=known)

    later.records.check()
    assert "it was deleted" in later.records.problem
    with pytest.raises(StateUnusable, match="it was deleted"):
        later.count_encryption("demo", None)


def test_a_record_in_the_manifest_that_went_back_with_the_file_is_made_anew_by_who_knows_better(
    book: UsageBook, record: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest" / "usage" / RECORD
    count(book, 1)
    older = record.read_bytes(), manifest.read_bytes()
    count(book, 16)
    known = StateFile(tmp_path, f"usage/{RECORD}").recorded()
    record.write_bytes(older[0])
    manifest.write_bytes(older[1])

    book.records.check()

    assert "an older copy" in book.records.problem
    assert StateFile(tmp_path, f"usage/{RECORD}").recorded() == known
    with pytest.raises(StateUnusable, match="an older copy"):
        UsageBook(tmp_path).count_encryption("demo", None)


def test_what_has_been_seen_changes_with_its_generation(book: UsageBook) -> None:
    seen = {book.generation: book.revisions}
    for step in (
        lambda: count(book, 1),
        lambda: count(book, 16),
        lambda: book.names.join("other", "demo"),
        lambda: book.begin("new"),
        lambda: book.records.set_times("demo", last_decrypted=time.time()),
    ):
        before = book.revisions
        step()
        assert book.revisions != before
        assert book.generation not in seen
        seen[book.generation] = book.revisions


def test_without_a_thread_no_request_fails_and_the_next_one_tries_again(tmp_path: Path) -> None:
    """On real threads: their limit is reached, and then it is not."""

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    book = UsageBook(tmp_path)
    book.count_encryption("demo", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "_start_new_thread", start)
        while not book._reservations["demo"].needs_refill(time.monotonic()):
            assert book.count_if_reserved("demo", None)
        assert book.count_if_reserved("demo", None)
        book.record_decryption("demo")
    before = book._reservations["demo"].total

    assert book.count_if_reserved("demo", None)

    eventually(lambda: book._reservations["demo"].total > before)

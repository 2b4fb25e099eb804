"""How often a key has encrypted: by several processes, whatever ends them, never less than the truth."""

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

from xksproxy.state import usage
from xksproxy.state.statefile import StateUnusable
from xksproxy.state.usage import KeyUsage, LimitReached, UsageBook

LABELS = st.text(min_size=1, max_size=40) | st.text("aä/.%\0~ -", min_size=1, max_size=300)
RECORD = "key-demo.json"

# Spends until it may no more, gives back what is left over, and says how often it did.
SPENDING = """
import sys
from pathlib import Path
from xksproxy.state.statefile import StateUnusable
from xksproxy.state.usage import LimitReached, UsageBook

book, spent = UsageBook(Path(sys.argv[1])), 0
while True:
    try:
        book.spend("demo", int(sys.argv[2]))
        spent += 1
    except LimitReached:
        break
    except StateUnusable as error:
        if "another process" not in str(error):
            raise
book.give_back()
print(spent)
"""

# Adds a byte to a file after each spending, until it is killed.
SPENDING_ON_RECORD = """
import os, sys
from pathlib import Path
from xksproxy.state.statefile import StateUnusable
from xksproxy.state.usage import UsageBook

book = UsageBook(Path(sys.argv[1]))
tally = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    try:
        book.spend("demo", None)
    except StateUnusable as error:
        if "another process" not in str(error):
            raise
    else:
        os.write(tally, b".")
"""


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


class AtOnce:
    """A thread whose work is done when it starts."""

    def __init__(self, target: Callable[..., None], args: tuple[object, ...], daemon: bool) -> None:
        self.start = lambda: target(*args)


@pytest.fixture
def book(tmp_path: Path) -> UsageBook:
    return UsageBook(tmp_path)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where the count of the label `demo` lies."""
    return tmp_path / "usage" / RECORD


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the books, whose threads do their work at once."""
    clock = Clock()
    monkeypatch.setattr(usage, "time", clock)
    monkeypatch.setattr(usage, "threading", SimpleNamespace(Lock=threading.Lock, Thread=AtOnce))
    return clock


def spend(book: UsageBook, times: int, maximum: int | None = None) -> None:
    for _ in range(times):
        book.spend("demo", maximum)


def spend_all(book: UsageBook, maximum: int) -> int:
    """How often it is allowed."""
    for spent in range(maximum + 1):
        try:
            book.spend("demo", maximum)
        except LimitReached:
            return spent
    raise AssertionError("it was allowed more often than the maximum")


def on_record(book: UsageBook) -> int:
    return book.read("demo").encryptions


def test_what_was_never_used_has_no_record(book: UsageBook, tmp_path: Path) -> None:
    assert book.read("demo") == KeyUsage("demo", 0, None, None)
    assert list(book.everything()) == []
    assert not (tmp_path / "usage").exists()


def test_an_encryption_is_on_record_before_it_is_made(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    for spent in range(1, 200):
        spend(book, 1)

        assert on_record(UsageBook(tmp_path)) >= spent


def test_what_was_not_made_is_given_back(book: UsageBook, tmp_path: Path, clock: Clock) -> None:
    spend(book, 21)
    book.spend("other", None)

    book.give_back()

    assert {(known.label, known.encryptions) for known in UsageBook(tmp_path).everything()} == {
        ("demo", 21),
        ("other", 1),
    }


def test_giving_back_twice_or_nothing_takes_nothing_off(book: UsageBook, clock: Clock) -> None:
    book.give_back()
    spend(book, 3)
    book.give_back()
    book.give_back()

    assert on_record(book) == 3


def test_a_book_counts_on_after_giving_back(book: UsageBook, clock: Clock) -> None:
    for _ in range(3):
        spend(book, 5)
        book.give_back()

    assert on_record(book) == 15


def test_a_block_that_is_being_taken_while_the_rest_is_given_back_is_not_lost(
    book: UsageBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(AtOnce):
        """A thread that comes to run only when nothing can encrypt any more."""

        def __init__(self, target: Callable[..., None], args: tuple[object, ...], daemon: bool) -> None:
            late.append(lambda: target(*args))
            self.start = lambda: None

    late: list[Callable[[], None]] = []
    monkeypatch.setattr(usage, "threading", SimpleNamespace(Lock=threading.Lock, Thread=Late))
    spend(book, 16)
    book.give_back()
    for work in late:
        work()

    assert late
    assert on_record(book) == 16


@pytest.mark.parametrize("maximum", [1, 2, 15, 16, 17, 100, 1000])
def test_a_key_encrypts_as_often_as_it_may_and_then_no_more(book: UsageBook, clock: Clock, maximum: int) -> None:
    assert spend_all(book, maximum) == maximum
    for _ in range(3):
        clock.now += 10
        with pytest.raises(LimitReached):
            book.spend("demo", maximum)

    assert on_record(book) == maximum
    book.give_back()
    assert on_record(book) == maximum


def test_the_last_encryptions_are_not_kept_by_a_process_that_does_not_make_them(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    idle = UsageBook(tmp_path)
    spend(idle, 1, maximum=80)

    assert spend_all(book, 80) >= 70


def test_a_higher_maximum_lets_a_key_go_on(book: UsageBook, clock: Clock) -> None:
    spend_all(book, 20)
    clock.now += 1

    spend(book, 10, maximum=30)
    with pytest.raises(LimitReached):
        book.spend("demo", 30)


def test_a_refusal_is_believed_for_a_second(book: UsageBook, tmp_path: Path, clock: Clock, record: Path) -> None:
    spend_all(book, 20)
    record.write_bytes(b'{"label":"demo","encryptions":20}')
    for later in (0.5, 0.4):
        clock.now += later
        with pytest.raises(LimitReached):
            book.spend("demo", 40)

    clock.now += 0.2
    book.spend("demo", 40)


def test_a_file_that_is_locked_for_long_keeps_one_thread_waiting_and_not_each_in_turn(
    book: UsageBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    @contextmanager
    def locked(_: Path, timeout: float) -> Iterator[None]:
        waits.append(timeout)
        clock.now += timeout
        raise StateUnusable("another process has been holding it for long")
        yield

    monkeypatch.setattr(usage, "locked", locked)
    for _ in range(5):
        with pytest.raises(StateUnusable, match="for long"):
            book.spend("demo", None)

    assert len(waits) == 1


def test_blocks_grow_while_they_do_not_last(book: UsageBook, clock: Clock) -> None:
    totals = []
    for _ in range(3000):
        spend(book, 1)
        totals.append(on_record(book))

    assert sorted(set(totals)) == [16, 16 + 64, 16 + 64 + 256, 16 + 64 + 256 + 1024, 16 + 64 + 256 + 1024 + 4096]


def test_a_process_takes_no_more_ahead_than_its_largest_blocks(book: UsageBook, clock: Clock) -> None:
    spend(book, 100_000)

    assert on_record(book) <= 100_000 + 1.5 * 16_384


def test_blocks_stay_small_while_they_last(book: UsageBook, clock: Clock) -> None:
    for spent in range(1, 100):
        spend(book, 1)
        clock.now += 2

        assert on_record(book) <= spent + 16 + 8


def test_no_request_waits_for_the_disk_but_the_first(book: UsageBook, clock: Clock) -> None:
    spend(book, 1)
    book._spend_from_new_block = None  # type: ignore[assignment, method-assign]

    spend(book, 5000)


def test_encryptions_leave_the_time_of_the_last_one_on_record_to_the_minute(book: UsageBook, clock: Clock) -> None:
    assert book.read("demo").last_encrypted is None
    spend(book, 1)
    assert book.read("demo").last_encrypted == clock.time()
    first = clock.time()

    clock.now += 59
    spend(book, 1)
    assert book.read("demo").last_encrypted == first

    clock.now += 1
    spend(book, 1)
    assert book.read("demo").last_encrypted == clock.time()
    book.give_back()
    assert on_record(book) == 3


def test_a_decryption_leaves_its_time_on_record_and_does_so_anew_every_minute(
    book: UsageBook, tmp_path: Path, clock: Clock
) -> None:
    book.decrypted("demo")
    first = clock.time()
    assert UsageBook(tmp_path).read("demo") == KeyUsage("demo", 0, None, first)

    clock.now += 59
    book.decrypted("demo")
    assert book.read("demo").last_decrypted == first

    clock.now += 1
    book.decrypted("demo")
    assert book.read("demo").last_decrypted == clock.time()


def test_decryptions_and_encryptions_leave_each_others_record_alone(book: UsageBook, clock: Clock) -> None:
    spend(book, 4)
    clock.now += 5
    book.decrypted("demo")
    book.give_back()

    assert book.read("demo") == KeyUsage("demo", 4, clock.time() - 5, clock.time())


def test_a_decryption_is_put_on_record_on_a_thread_of_its_own(book: UsageBook, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []

    class Noted(threading.Thread):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr(usage, "threading", SimpleNamespace(Lock=threading.Lock, Thread=Noted))
    book.decrypted("demo")
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

    for use in (lambda: spend(book, 1), lambda: book.read("demo"), lambda: list(book.everything())):
        with pytest.raises(StateUnusable, match=RECORD):
            use()
    book.decrypted("demo")
    book.give_back()

    assert record.read_bytes() == content


def test_a_directory_that_cannot_be_written_stops_encryption_and_lets_decryption_go_on(
    tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "state").write_text("no directory")
    book = UsageBook(tmp_path / "state")

    with pytest.raises(StateUnusable):
        spend(book, 1)
    book.decrypted("demo")
    book.give_back()


def test_a_full_disk_stops_encryption_once_the_counted_ones_are_made(
    book: UsageBook, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(book, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        spend(book, 15)
        with pytest.raises(StateUnusable, match="No space left on device"):
            spend(book, 1)

    clock.now += 1
    spend(book, 1)
    assert on_record(UsageBook(tmp_path)) >= 17


def lose(record: Path, how: str) -> None:
    record.unlink()
    if how == "a decryption began it anew":
        UsageBook(record.parent.parent).decrypted("demo")
    elif how == "another process began it anew":
        spend(UsageBook(record.parent.parent), 1)
    elif how == "with its directory":
        for rest in record.parent.iterdir():
            rest.unlink()
        record.parent.rmdir()


@pytest.mark.parametrize(
    "how", ["removed", "with its directory", "a decryption began it anew", "another process began it anew"]
)
def test_a_count_that_vanished_is_not_begun_anew(book: UsageBook, clock: Clock, record: Path, how: str) -> None:
    spend(book, 40)
    lose(record, how)

    with pytest.raises(StateUnusable, match="it has vanished or was replaced"):
        spend(book, 200)
    clock.now += 100
    book.decrypted("demo")
    with pytest.raises(StateUnusable, match="it has vanished or was replaced"):
        spend(book, 1)


@pytest.mark.parametrize("how", ["removed", "with its directory", "a decryption began it anew"])
def test_nothing_is_given_back_to_a_count_that_vanished(book: UsageBook, clock: Clock, record: Path, how: str) -> None:
    spend(book, 3)
    lose(record, how)
    left = on_record(book)

    book.give_back()

    assert on_record(book) == left >= 0


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
    book.spend(label, 1)

    assert UsageBook(directory).read(label).label == label
    assert UsageBook(directory).read(label).encryptions == 1
    assert [known.label for known in book.everything()] == [label]
    assert all(path.parent == directory / "usage" for path in directory.rglob("*.json"))


@given(one=LABELS, other=LABELS)
@example("a/b", "a%2Fb")
@example("a", "A")
@example("a", "a.json")
@example("a" * 300, "a" * 301)
@example("/" * 200 + "a", "/" * 200 + "b")
@example("a" * 150, "a" * 151)
def test_different_labels_never_share_a_file(one: str, other: str) -> None:
    book = UsageBook(Path("state"))

    assert (book._path(one) == book._path(other)) == (one == other)
    assert book._path(one).with_suffix(".lock") not in {book._path(other), book._path(other).with_suffix(".partial")}


def test_threads_share_a_book_without_losing_a_count(book: UsageBook) -> None:
    threads = [threading.Thread(target=spend, args=(book, 500)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    book.give_back()

    assert on_record(book) == 4000


def test_threads_together_never_get_more_than_the_maximum(book: UsageBook) -> None:
    spent: list[int] = []
    threads = [threading.Thread(target=lambda: spent.append(spend_all(book, 300))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    book.give_back()

    assert sum(spent) == on_record(book) <= 300


@pytest.mark.parametrize("maximum", [3, 100, 2000])
def test_processes_together_never_get_more_than_the_maximum(book: UsageBook, tmp_path: Path, maximum: int) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", SPENDING, str(tmp_path), str(maximum)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]

    spent = [int(process.communicate(timeout=100)[0]) for process in processes]

    assert 0 < sum(spent) <= maximum
    assert on_record(book) == sum(spent)
    assert spend_all(book, maximum) == maximum - sum(spent)


def test_processes_that_are_killed_at_any_moment_have_made_no_encryption_that_is_not_on_record(
    book: UsageBook, tmp_path: Path
) -> None:
    tally, chance = tmp_path / "tally", random.Random(4)
    tally.touch()
    for _ in range(6):
        begun = tally.stat().st_size
        command = [sys.executable, "-c", SPENDING_ON_RECORD, str(tmp_path), str(tally)]
        processes = [subprocess.Popen(command) for _ in range(3)]
        enough = begun + chance.randrange(1, 2000)
        while tally.stat().st_size < enough:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.001)
        for process in processes:
            process.kill()
            process.wait()

        assert on_record(book) >= tally.stat().st_size > begun

    spend(book, 1)

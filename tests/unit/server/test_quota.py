"""A token bucket that several processes share."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import small_file_system

from xksproxy.config.errors import ConfigError
from xksproxy.hsm._native import claim_bucket, take_token
from xksproxy.server import quota as module
from xksproxy.server.quota import Quotas

_TAKE = """
import sys
from pathlib import Path
from xksproxy.server.quota import Quotas
quota = Quotas(Path(sys.argv[1])).quota("store", 0.001, 200_000)
print("ready", flush=True)
input()
print(sum(quota.take() for _ in range(100_000)))
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic_ns(self) -> int:
        return round(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic_ns", made.monotonic_ns)
    return made


def test_a_burst_is_allowed_and_then_the_rate(tmp_path: Path, clock: Clock) -> None:
    quota = Quotas(tmp_path / "quotas").quota("store", rate=10, burst=5)

    assert [quota.take() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.25
    assert [quota.take() for _ in range(4)] == [True] * 2 + [False] * 2
    clock.now += 1000
    assert sum(quota.take() for _ in range(100)) == 5


def test_a_new_limit_holds_from_the_next_request_on(tmp_path: Path, clock: Clock) -> None:
    quotas = Quotas(tmp_path / "quotas")
    old = quotas.quota("store", rate=1, burst=100)
    assert all(old.take() for _ in range(50))

    new = quotas.quota("store", rate=10, burst=2)

    assert not new.take()
    clock.now += 0.1
    assert [new.take() for _ in range(2)] == [True, False]


def test_a_rate_is_exact(tmp_path: Path, clock: Clock) -> None:
    quota = Quotas(tmp_path / "quotas").quota("store", rate=70_000, burst=7)

    taken = 0
    for _ in range(100_000):
        clock.now += 1e-5  # 100,000 requests a second
        taken += quota.take()

    assert taken == pytest.approx(70_007, abs=10)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_key_stores_have_buckets_of_their_own_and_share_one_file(tmp_path: Path) -> None:
    quotas = Quotas(tmp_path / "quotas")
    before = open_files()
    stores = [quotas.quota(f"store-{number}", rate=0.001, burst=2) for number in range(1000)]

    assert [sum(store.take() for _ in range(3)) for store in stores] == [2] * 1000
    assert open_files() <= before + 1
    assert not quotas.quota("store-7", rate=0.001, burst=2).take()


def test_processes_at_once_take_exactly_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TAKE, str(tmp_path / "quotas")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()

    taken = [int(process.communicate()[0]) for process in running]

    assert sum(taken) == 200_000


def test_no_more_names_than_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUCKETS", 3)
    quotas = Quotas(tmp_path / "quotas")
    for name in "abc":
        quotas.quota(name, 1, 1)

    with pytest.raises(ConfigError, match="more than 3 names"):
        quotas.quota("d", 1, 1)


def test_extreme_limits_are_taken(tmp_path: Path) -> None:
    quotas = Quotas(tmp_path / "quotas")

    assert quotas.quota("slow", 1e-300, 10_000_000).take()
    assert quotas.quota("fast", 1_000_000, 10_000_000).take()


def test_a_bucket_that_does_not_exist_raises(tmp_path: Path) -> None:
    buckets = Quotas(tmp_path / "quotas")._mapped()

    for number in (-1, 65_536):
        with pytest.raises(IndexError):
            take_token(buckets, number, 1, 1, 1)
    with pytest.raises((TypeError, BufferError)):
        take_token(b"0" * 16, 0, 1, 1, 1)  # type: ignore[arg-type]
    assert claim_bucket(buckets, 0) == -1


_TAKE_WITHOUT_ROOM = """
import sys
from pathlib import Path
from xksproxy.server.quota import Quotas
directory = Path(sys.argv[1])
try:
    (directory / "filler").write_bytes(bytes(2**20))
except OSError:
    pass
quota = Quotas(directory / "quotas").quota("dev", 0.0001, 5)
print(quota.problem, sum(quota.take() for _ in range(10)))
"""


def test_without_room_for_its_file_a_process_counts_for_itself() -> None:
    with small_file_system(size=2**16) as directory:
        command = [sys.executable, "-c", _TAKE_WITHOUT_ROOM, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "No space left on device 5\n"), done.stderr

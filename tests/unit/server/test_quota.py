"""A token bucket that several processes share."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import small_file_system

from xksproxy.server import quota as module
from xksproxy.server.quota import Quota

_TAKE = """
import sys
from pathlib import Path
from xksproxy.server.quota import Quota
quota = Quota(Path(sys.argv[1]), 0.0001, 500)
print(sum(quota.take() for _ in range(1000)))
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic", made.monotonic)
    return made


def test_a_burst_is_allowed_and_then_the_rate(tmp_path: Path, clock: Clock) -> None:
    quota = Quota(tmp_path / "quota", rate=10, burst=5)

    assert [quota.take() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.25
    assert [quota.take() for _ in range(4)] == [True] * 2 + [False] * 2
    clock.now += 1000
    assert sum(quota.take() for _ in range(100)) == 5


def test_a_new_limit_holds_from_the_next_request_on(tmp_path: Path, clock: Clock) -> None:
    old = Quota(tmp_path / "quota", rate=1, burst=100)
    assert old.take()

    new = Quota(tmp_path / "quota", rate=1, burst=2)

    assert [new.take() for _ in range(3)] == [True, True, False]


def test_processes_at_once_never_take_more_than_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TAKE, str(tmp_path / "quota")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]

    taken = [int(process.communicate()[0]) for process in running]

    assert 450 <= sum(taken) <= 500


_TAKE_WITHOUT_ROOM = """
import sys
from pathlib import Path
from xksproxy.server.quota import Quota
directory = Path(sys.argv[1])
try:
    (directory / "filler").write_bytes(bytes(2**20))
except OSError:
    pass
quota = Quota(directory / "quota", 0.0001, 5)
print(quota.problem, sum(quota.take() for _ in range(10)))
"""


def test_without_room_for_its_file_a_process_counts_for_itself() -> None:
    with small_file_system(size=2**16) as directory:
        command = [sys.executable, "-c", _TAKE_WITHOUT_ROOM, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "No space left on device 5\n"), done.stderr

"""When memory is locked, in processes of their own: a lock would include all later allocations of the tests."""

import ctypes
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

_PR_CAPBSET_DROP = 24
_CAP_IPC_LOCK = 14
_LOCK = """
import re
from pathlib import Path
from xksproxy.server.freed_memory import MemoryReturn
from xksproxy.server.memory_lock import MemoryLock

def kibibytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

memory = MemoryLock()
memory.lock()
later = bytearray(64 * 1024 * 1024)
print(memory.problem or "locked", kibibytes("VmLck") > 64 * 1024)
"""
_GIVE_BACK = """
del later
# Between these blocks others stay in use, so the heap cannot shrink at its end.
blocks = [bytes(2000) for _ in range(50_000)]
del blocks[::2]
kept = blocks[-1]
del blocks[:-200]
before = kibibytes("VmRSS")
give_back = MemoryReturn(memory)
returned = give_back(), give_back()
print(before - kibibytes("VmRSS") > 40_000, kibibytes("VmLck") > 10_000, *returned)
"""


def _run(program: str, *before: str, **options: Any) -> list[str]:
    command = [*before, sys.executable, "-c", program]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options).stdout.splitlines()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))


def _limit_without_the_right() -> None:
    _limit()
    if os.geteuid() == 0:
        assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_IPC_LOCK, 0, 0, 0) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may lock more than its limit")
def test_memory_is_locked_by_who_has_no_limit_and_freed_memory_still_goes_back() -> None:
    assert _run(_LOCK + _GIVE_BACK, preexec_fn=_limit) == ["locked True", "True True True False"]


def test_with_a_limit_nothing_is_locked_and_later_allocations_succeed() -> None:
    assert _run(_LOCK, preexec_fn=_limit_without_the_right) == ["RLIMIT_MEMLOCK is 64 KiB; expected unlimited False"]


def test_the_rights_of_a_user_namespace_do_not_count() -> None:
    try:
        written = _run(_LOCK, "unshare", "--user", "--map-root-user", preexec_fn=_limit)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespace can be made here")

    assert written == ["RLIMIT_MEMLOCK is 64 KiB; expected unlimited False"]

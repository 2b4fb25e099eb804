"""Memory and processor time of server processes, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_LISTENING: Final = "0A"


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one process in MiB: the resident set, and the proportional set."""

    resident: float
    proportional: float


def tree(pid: int) -> list[int]:
    """A process and its descendants, parents first; without those that have ended."""
    found = [pid]
    for parent in found:
        try:
            text = (_PROC / f"{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        found += [int(child) for child in text.split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time, in user and system mode, of a process and its descendants."""
    return sum(_cpu_ticks(each) for each in tree(pid)) / _TICKS_A_SECOND


def _cpu_ticks(pid: int) -> int:
    try:
        fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def memory(pid: int) -> Memory:
    """The memory of one process; OSError if it has ended."""
    sizes = {}
    for line in (_PROC / f"{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name] = int(value) / 1024
    return Memory(sizes["Rss:"], sizes["Pss:"])


def listening_on(port: int) -> int | None:
    """The process that listens on a TCP port of this machine; the first one if there are several."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    pids = sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return next((pid for pid in pids if _holds(pid, sockets)), None)


def _inodes(port: int) -> list[str]:
    found = []
    for table in ("tcp", "tcp6"):
        for line in (_PROC / f"net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(fields[9])
    return found


def _holds(pid: int, sockets: set[str]) -> bool:
    try:
        return any(str(entry.readlink()) in sockets for entry in (_PROC / f"{pid}/fd").iterdir())
    except OSError:
        return False

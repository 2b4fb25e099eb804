"""What each worker sees of itself and its HSMs, laid out for the others: any of them can answer for all."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.instance.instance import Instance
from xksproxy.server.record import Refusal

_FRESH_SECONDS: Final = 10.0


class HsmStatus(msgspec.Struct, frozen=True):
    """An HSM as one worker sees it."""

    id: str
    state: str
    reason: str
    vendor: str
    model: str
    calls: int
    """Calls that wait or run."""

    sessions: int
    stuck: int


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker as it sees itself. Times are seconds since 1970."""

    pid: int
    at: float
    started: float
    in_flight: int
    ready: bool
    problem: str
    """Why it refuses what its HSMs could serve; empty if it does not."""

    hsms: tuple[HsmStatus, ...]
    refusals: tuple[Refusal, ...]


def hsm_status(instance: Instance) -> HsmStatus:
    """How an HSM looks from here."""
    info = instance.info
    return HsmStatus(
        instance.id,
        instance.state.value,
        instance.reason or "; ".join(instance.degraded),
        info.manufacturer if info else "",
        f"{info.model}, firmware {info.firmware}, serial {info.serial}" if info else "",
        instance.load,
        instance.sessions,
        instance.stuck_sessions,
    )


def publish(directory: Path, worker: WorkerStatus) -> None:
    """Lay a worker's worker out; call it on a thread."""
    path = _path(directory, worker.pid)
    partial = path.with_suffix(".partial")
    with suppress(OSError):
        partial.write_bytes(msgspec.json.encode(worker))
        partial.rename(path)


def collect(directory: Path) -> list[WorkerStatus]:
    """The workers of all workers that have said something in the last 10 s, by process id; call it on a thread."""
    workers = []
    for path in directory.glob("worker-*.json"):
        with suppress(OSError, msgspec.MsgspecError):
            workers.append(msgspec.json.decode(path.read_bytes(), type=WorkerStatus))
    return sorted(
        (worker for worker in workers if time.time() - worker.at < _FRESH_SECONDS), key=lambda worker: worker.pid
    )


def forget(directory: Path, pid: int) -> None:
    """Take away the worker of a worker that has ended."""
    _path(directory, pid).unlink(missing_ok=True)


def _path(directory: Path, pid: int) -> Path:
    return directory / f"worker-{pid}.json"

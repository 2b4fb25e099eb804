"""The status that each worker publishes of itself and its HSMs, so that any worker can answer for all."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.server.conditions import Condition

_FRESH_SECONDS: Final = 10.0


class HsmStatus(msgspec.Struct, frozen=True):
    """The status of one HSM in one worker."""

    id: str
    state: str
    reason: str
    vendor: str
    model: str
    calls: int
    """Calls that wait or run."""

    sessions: int
    stuck: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused lately. Times are seconds since 1970."""

    at: float
    keystore: str
    operation: str
    key_id: str
    error: str
    message: str
    peer: str


class WorkerStatus(msgspec.Struct, frozen=True):
    """The status of one worker. Times are seconds since 1970."""

    pid: int
    at: float
    started: float
    in_flight: int
    ready: bool
    hsms: tuple[HsmStatus, ...]
    refusals: tuple[Refusal, ...]
    revisions: dict[str, int] = {}
    """The revisions of state files that are in force, by the names of the files."""

    credentials: dict[str, tuple[str, ...]] = {}
    """The access key ids that are accepted, by key store."""

    reload: str = ""
    """The last request for a reload that it has followed; see :mod:`xksproxy.server.reload_verdict`."""

    clock_offset: float | None = None
    """Seconds by which the clock is ahead of the times of the latest signatures."""

    conditions: tuple[Condition, ...] = ()


def publish(directory: Path, worker: WorkerStatus) -> None:
    """Write the status file of a worker; call it on a thread."""
    path = _path(directory, worker.pid)
    partial = path.with_suffix(".partial")
    with suppress(OSError):
        partial.write_bytes(msgspec.json.encode(worker))
        partial.rename(path)


def collect(directory: Path) -> list[WorkerStatus]:
    """The status of each worker that has published one in the last 10 s, by process id; call it on a thread."""
    workers = []
    for path in directory.glob("worker-*.json"):
        with suppress(OSError, msgspec.MsgspecError):
            workers.append(msgspec.json.decode(path.read_bytes(), type=WorkerStatus))
    return sorted(
        (worker for worker in workers if time.time() - worker.at < _FRESH_SECONDS), key=lambda worker: worker.pid
    )


def read_status(directory: Path, pid: int) -> WorkerStatus | None:
    """The status that a worker has published, however old; None if there is none."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_path(directory, pid).read_bytes(), type=WorkerStatus)
    return None


def published_pids(directory: Path) -> list[int]:
    """The process ids of the workers that have published a status and have not ended."""
    return [int(path.stem.removeprefix("worker-")) for path in directory.glob("worker-*.json")]


def forget(directory: Path, pid: int) -> None:
    """Remove the status file of a worker that has ended."""
    _path(directory, pid).unlink(missing_ok=True)


def _path(directory: Path, pid: int) -> Path:
    return directory / f"worker-{pid}.json"

"""What each worker sees of itself and its HSMs, laid out for the others: any of them can answer for all."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.instance import Instance
from xksproxy.server.record import Refusal

_FRESH_SECONDS: Final = 10.0


class HsmView(msgspec.Struct, frozen=True):
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


class WorkerView(msgspec.Struct, frozen=True):
    """A worker as it sees itself. Times are seconds since 1970."""

    pid: int
    at: float
    started: float
    in_flight: int
    ready: bool
    problem: str
    """Why it refuses what its HSMs could serve; empty if it does not."""

    hsms: tuple[HsmView, ...]
    refusals: tuple[Refusal, ...]
    clock_offset: float | None = None
    """Seconds by which the clock is ahead of the times of the latest signatures."""

    clock_wrong_by: float | None = None
    """The same of those that were refused by the clock alone, if these are most of them."""


def hsm_view(instance: Instance) -> HsmView:
    """How an HSM looks from here."""
    info = instance.info
    return HsmView(
        instance.id,
        instance.state.value,
        instance.reason,
        info.manufacturer if info else "",
        f"{info.model}, firmware {info.firmware}, serial {info.serial}" if info else "",
        instance.load,
        instance.sessions,
        instance.stuck_sessions,
    )


def publish(directory: Path, view: WorkerView) -> None:
    """Lay a worker's view out; call it on a thread."""
    path = _path(directory, view.pid)
    partial = path.with_suffix(".partial")
    with suppress(OSError):
        partial.write_bytes(msgspec.json.encode(view))
        partial.rename(path)


def collect(directory: Path) -> list[WorkerView]:
    """The views of all workers that have said something in the last 10 s, by process id; call it on a thread."""
    views = []
    for path in directory.glob("view-*.json"):
        with suppress(OSError, msgspec.MsgspecError):
            views.append(msgspec.json.decode(path.read_bytes(), type=WorkerView))
    return sorted((view for view in views if time.time() - view.at < _FRESH_SECONDS), key=lambda view: view.pid)


def forget(directory: Path, pid: int) -> None:
    """Take away the view of a worker that has ended."""
    _path(directory, pid).unlink(missing_ok=True)


def _path(directory: Path, pid: int) -> Path:
    return directory / f"view-{pid}.json"

"""The status that each worker publishes of itself and its HSMs, so that any worker can answer for all."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.encoding import encode_json
from xksproxy.server.conditions import Condition
from xksproxy.telemetry.published_file import PublishedFile, Unreadable, read_published

_FRESH_SECONDS: Final = 10.0
_CAPACITY: Final = 128 * 1024
"""Enough for the largest number of refusals and conditions."""

_IN_FORCE: Final = "in-force-"
_IN_FORCE_CAPACITY: Final = 64 * 1024
"""Enough for a thousand credentials."""

_RECORDS: Final = "records-"
_RECORDS_CAPACITY: Final = 64 * 1024
"""Enough for a thousand keys."""

Content = TypeVar("Content")


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
    """A recent request that was refused. Times are seconds since 1970."""

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
    reload: str = ""
    """The last reload request that the worker has followed; see :mod:`xksproxy.server.reload_verdict`."""

    clock_offset: float | None = None
    """Seconds by which the clock is ahead of the times of the latest signatures."""

    conditions: tuple[Condition, ...] = ()
    configuration: int = 0
    """The number of the configuration that it uses."""
    leaving: bool = False
    """Whether it ends, and only serves the connections that it has."""

    memory_problem: str = ""
    """Why the memory of the worker is not locked; empty if it is."""


class InForce(msgspec.Struct, frozen=True):
    """Which changes a worker follows. It grows with the number of key stores, and rarely changes."""

    state_directory: str = ""
    """The directory of these files."""

    revisions: Mapping[str, int] = {}
    """The highest revisions that state files are known to have had, by the names of the files. 0 is left out."""

    refused: tuple[str, ...] = ()
    """The files that the worker refuses. It follows no change of them, whatever their revision."""

    credentials: Mapping[str, tuple[str, ...]] = {}
    """The access key ids that are accepted, by key store."""

    witness_unread: bool = False
    """Whether the tokens are witnesses of the state directory, and none was read yet."""


class RecordRevisions(msgspec.Struct, frozen=True):
    """Which state files a worker has seen that no command changes. It grows with the number of keys in use."""

    state_directory: str = ""
    """The directory of these files."""

    revisions: Mapping[str, int] = {}
    """The highest revisions that they are known to have had, by their paths in the directory. 0 is left out."""


@dataclass(frozen=True, slots=True)
class Changing:
    """What is published only if it has changed."""

    state: object
    """Another value after each change."""

    content: Callable[[], InForce | RecordRevisions]


class StatusFile:
    """The files in which a worker publishes its status, what is in force, and the records that it has seen."""

    def __init__(self, directory: Path, pid: int) -> None:
        self._file = PublishedFile(_path(directory, pid), _CAPACITY)
        self._in_force = _ChangingFile(PublishedFile(_in_force_path(directory, pid), _IN_FORCE_CAPACITY))
        self._records = _ChangingFile(PublishedFile(_records_path(directory, pid), _RECORDS_CAPACITY))
        self.problem = ""
        """Why the last status could not be written; empty if it could."""

    def publish(self, worker: WorkerStatus, in_force: Changing, records: Changing) -> None:
        """Write the status, and the rest where it has changed; call it on a thread."""
        try:
            self._in_force.publish(in_force)
            self._records.publish(records)
            self._file.write(encode_json(worker))
        except OSError as error:
            self.problem = error.strerror or str(error)
        else:
            self.problem = ""


class _ChangingFile:
    def __init__(self, file: PublishedFile) -> None:
        self._file = file
        self._state: object = None

    def publish(self, published: Changing) -> None:
        if published.state != self._state or not self._file.in_place:
            self._file.write(encode_json(published.content()))
            self._state = published.state


def collect(directory: Path) -> list[WorkerStatus]:
    """The status of each worker that has published one in the last 10 s, by process id; call it on a thread."""
    read = (read_status(directory, pid) for pid in published_pids(directory))
    workers = (worker for worker in read if worker is not None and time.time() - worker.at < _FRESH_SECONDS)
    return sorted(workers, key=lambda worker: worker.pid)


def read_status(directory: Path, pid: int) -> WorkerStatus | None:
    """The status that a worker has published, however old; None if there is none."""
    return _read(_path(directory, pid), WorkerStatus)


def read_in_force(directory: Path, pid: int) -> InForce | None:
    """What a worker has published of that; None if it has published nothing."""
    return _read(_in_force_path(directory, pid), InForce)


def newest_revisions(directory: Path, is_same: Callable[[str], bool]) -> dict[str, int]:
    """The highest revision of each state file that workers of a runtime directory have published.

    ``is_same`` says whether a path is that of the state directory; workers that leave may use another one.
    """
    newest: dict[str, int] = {}
    kinds: tuple[tuple[str, type[InForce | RecordRevisions]], ...] = (_IN_FORCE, InForce), (_RECORDS, RecordRevisions)
    for prefix, content_type in kinds:
        for path in directory.glob(f"{prefix}*"):
            is_whole = path.name.removeprefix(prefix).isdecimal()
            found = _read(path, content_type) if is_whole else None
            if found is not None and is_same(found.state_directory):
                raise_to(newest, found.revisions)
    return newest


def raise_to(newest: dict[str, int], revisions: Mapping[str, int]) -> None:
    """Raise each revision in ``newest`` to that in ``revisions``, if this one is higher."""
    for name, revision in revisions.items():
        newest[name] = max(revision, newest.get(name, 0))


def published_pids(directory: Path) -> list[int]:
    """The process ids of the workers that have published a status and have not ended."""
    names = (path.stem.removeprefix("worker-") for path in directory.glob("worker-*.status"))
    return [int(name) for name in names if name.isdecimal()]


def forget(directory: Path, pid: int) -> None:
    """Remove the files of a worker that has ended, also those that it had not finished."""
    for path in (_path(directory, pid), _in_force_path(directory, pid), _records_path(directory, pid)):
        path.unlink(missing_ok=True)
    for path in directory.glob(f"*-{pid}.*partial"):
        path.unlink(missing_ok=True)


def _read(path: Path, content_type: type[Content]) -> Content | None:
    """The content of a published file; None if it has none that can be read."""
    with suppress(OSError, Unreadable, msgspec.MsgspecError):
        return decode_json(read_published(path), content_type)
    return None


def _path(directory: Path, pid: int) -> Path:
    return directory / f"worker-{pid}.status"


def _in_force_path(directory: Path, pid: int) -> Path:
    return directory / f"{_IN_FORCE}{pid}"


def _records_path(directory: Path, pid: int) -> Path:
    return directory / f"{_RECORDS}{pid}"

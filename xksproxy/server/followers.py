"""Waits until every worker of this machine follows a change of the state directory.

Workers publish the revisions that they hold in their status files. The state directory records where the files are.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from xksproxy.server.directory_identity import is_in_use_by_proxy, is_locked
from xksproxy.server.worker_status import (
    InForce,
    WorkerStatus,
    newest_revisions,
    published_pids,
    read_in_force,
    read_status,
)
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateFile, StateUnusable

_FOLLOW_SECONDS: Final = 10.0
_LOCK_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.1
_RECORDING_SECONDS: Final = 1.5
"""A proxy that runs and is not recorded records itself sooner."""


class RunningProxy(msgspec.Struct, frozen=True):
    """A running proxy."""

    master: int
    """The process id of the master, whose children are the workers."""
    state: str
    """The absolute path of its state directory. In a copy of the directory, it shows that the proxy does not use it."""
    inode: tuple[int, int]
    """Device and inode of that directory, because it may have several paths."""
    started: int = 0
    """When the master started, in clock ticks since the boot. An earlier release does not record it."""

    def is_running(self, runtime: Path) -> bool:
        """Whether it runs: its processes lock the runtime directory, or that was removed and the master is there."""
        is_there = _may_be_ours(runtime) and is_running(runtime)
        return is_there or (self.started != 0 and _start_of(self.master) == self.started)

    def uses(self, state_directory: Path) -> bool:
        """Whether this proxy uses a directory. The directory may have been restored in place, with another inode."""
        return str(state_directory.resolve()) == self.state or _inode(state_directory) == self.inode


def proxy_table(state_directory: Path) -> SharedTable[RunningProxy]:
    """The running proxies that use a state directory, by the directory in which their workers publish their status."""
    return SharedTable(state_directory, "services.json", RunningProxy)


def register(state_directory: Path, runtime: Path, master: int) -> None:
    """Record where the workers of this proxy publish their status, and forget proxies that have ended.

    A record that cannot be read, or has vanished, is begun anew: it has nothing but proxies, which record themselves.

    Raises:
        StateUnusable: it cannot be recorded.
    """
    table = proxy_table(state_directory)
    proxy = _running(state_directory, master)
    try:
        table.update(str(runtime), lambda _: proxy)
    except StateUnusable:
        file = StateFile(state_directory, table.path.name)
        with file.locked(_LOCK_SECONDS):
            file.supersede({"entries": {str(runtime): msgspec.to_builtins(proxy)}}, 0)
        return
    for other, found in table.entries().items():
        if not found.uses(state_directory) or not found.is_running(Path(other)):
            table.update(other, lambda _: None)


class Registration:
    """Keeps the record of a proxy in a state directory. Its methods wait for the disk."""

    def __init__(self, state_directory: Path, runtime: Path) -> None:
        self._directory = state_directory
        self._runtime = runtime
        self._table = proxy_table(state_directory)

    def keep(self, master: int) -> None:
        """Record the proxy, unless the directory that is in place now has the record.

        Raises:
            StateUnusable: it cannot be recorded.
        """
        try:
            self._table.refresh()
            if self._table.get(str(self._runtime)) == _running(self._directory, master):
                return
        except StateUnusable:
            self._table = proxy_table(self._directory)
        register(self._directory, self._runtime, master)


def _running(state_directory: Path, master: int) -> RunningProxy:
    return RunningProxy(master, str(state_directory.resolve()), _inode(state_directory), _start_of(master))


def _start_of(process: int) -> int:
    """When a process started (proc_pid_stat(5)); 0 if there is none, or it has ended and its parent does not know."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


@dataclass(frozen=True, slots=True)
class Worker:
    """What one worker has published."""

    status: WorkerStatus
    in_force: InForce


@dataclass(frozen=True, slots=True)
class Following:
    """The workers of this machine, by process id."""

    following: tuple[int, ...]
    behind: tuple[int, ...]
    """Workers that did not follow in time."""


def wait_for_workers(
    state_directory: Path, follows: Callable[[Worker], bool], seconds: float = _FOLLOW_SECONDS
) -> Following:
    """Wait, at most ``seconds``, until each worker reports that it follows a change.

    Raises:
        StateUnusable: the record of running proxies cannot be read.
    """
    _wait_for_record(state_directory)
    found = _wait(lambda: proxies_of(state_directory), follows, seconds)
    if found == Following((), ()) and not proxies_of(state_directory) and is_in_use_by_proxy(state_directory):
        raise StateUnusable(f"{proxy_table(state_directory).path}: a proxy runs that is not on record")
    return found


def wait_for_workers_of(
    runtime: Path, master: int, follows: Callable[[Worker], bool], seconds: float = _FOLLOW_SECONDS
) -> Following:
    """The same for one proxy, by its runtime directory and its master process."""
    return _wait(lambda: {runtime: master}, follows, seconds)


def is_in_use(state_directory: Path) -> bool:
    """Whether a proxy that runs uses a state directory: it has locked it, or is on record."""
    _wait_for_record(state_directory)
    try:
        return is_in_use_by_proxy(state_directory) or bool(proxies_of(state_directory))
    except StateUnusable:  # what is lost may be the record
        return False


def has_compared(state_directory: Path) -> bool:
    """Whether a worker that runs has compared a state directory with the tokens that are its witnesses."""
    try:
        proxies = proxies_of(state_directory)
    except StateUnusable:
        return False
    workers = (_read(runtime, pid) for runtime, master in proxies.items() for pid in _workers(runtime, master))
    return any(worker is not None and not worker.in_force.witness_unread for worker in workers)


def _wait_for_record(state_directory: Path) -> None:
    """Let the proxies that run record themselves: the record may have been lost, or become older, a moment ago."""
    with suppress(StateUnusable):
        if proxies_of(state_directory):
            return
    if is_in_use_by_proxy(state_directory) or not os.path.lexists(proxy_table(state_directory).path):
        time.sleep(_RECORDING_SECONDS)


def proxies_of(state_directory: Path) -> dict[Path, int]:
    """The master process of each running proxy that uses a state directory, by its runtime directory.

    Raises:
        StateUnusable: the record of running proxies cannot be read.
    """
    table = proxy_table(state_directory)
    table.refresh()
    entries = {Path(runtime): proxy for runtime, proxy in table.entries().items()}
    return {
        runtime: proxy.master
        for runtime, proxy in entries.items()
        if proxy.uses(state_directory) and proxy.is_running(runtime)
    }


def known_to_workers(state_directory: Path, name: str) -> int:
    """The highest revision of a state file that the workers which run have had; 0 if none is known.

    A command must not change an older file: its change would get a revision that the workers know, or a later one, and
    they would take the older entries with it.
    """

    def is_same(path: str) -> bool:
        try:
            return Path(path).samefile(state_directory)
        except OSError:
            return False

    known = [0]
    _wait_for_record(state_directory)
    with suppress(StateUnusable):
        known += [newest_revisions(runtime, is_same).get(name, 0) for runtime in proxies_of(state_directory)]
    return max(known)


def holds(table: SharedTable[Any]) -> Callable[[Worker], bool]:
    """Whether a worker holds the present revision of a table, or a later one that is in the file.

    A worker with a higher revision than the file refuses the file, because an older copy of it was put back.
    """
    name, revision = table.path.name, table.revision

    def follows(worker: Worker) -> bool:
        held = worker.in_force.revisions.get(name, -1)
        if held > table.revision:
            with suppress(StateUnusable):
                table.refresh()
        return name not in worker.in_force.refused and revision <= held <= table.revision

    return follows


def refuses(keystore: str, access_key_id: str) -> Callable[[Worker], bool]:
    """Whether a worker no longer accepts a credential."""
    return lambda worker: access_key_id not in worker.in_force.credentials.get(keystore, (access_key_id,))


def _wait(proxies: Callable[[], dict[Path, int]], follows: Callable[[Worker], bool], seconds: float) -> Following:
    end = time.monotonic() + seconds
    while True:
        found = _check(proxies(), follows)
        if not found.behind or time.monotonic() >= end:
            return found
        time.sleep(_POLL_SECONDS)


def _check(proxies: dict[Path, int], follows: Callable[[Worker], bool]) -> Following:
    following: list[int] = []
    behind: list[int] = []
    for runtime, master in proxies.items():
        for pid in _workers(runtime, master):
            worker = _read(runtime, pid)
            (following if worker is not None and follows(worker) else behind).append(pid)
    return Following(tuple(sorted(following)), tuple(sorted(behind)))


def _read(runtime: Path, pid: int) -> Worker | None:
    status, in_force = read_status(runtime, pid), read_in_force(runtime, pid)
    return None if status is None or in_force is None else Worker(status, in_force)


def _inode(directory: Path) -> tuple[int, int]:
    """Device and inode of a directory. Raises StateUnusable if it cannot be read."""
    try:
        found = directory.stat()
    except OSError as error:
        raise StateUnusable(f"{directory}: {error.strerror}") from error
    return found.st_dev, found.st_ino


def _may_be_ours(runtime: Path) -> bool:
    """Whether a directory belongs to this user or root. Another user may make one of the name of one that is gone."""
    try:
        return runtime.lstat().st_uid in (0, os.geteuid())
    except OSError:
        return False


def is_running(runtime: Path) -> bool:
    """Whether a process holds the lock of the directory, as the master and the workers do while they run."""
    return is_locked(runtime)


def _workers(runtime: Path, master: int) -> list[int]:
    """The children of the master; without it or its file in /proc, the workers that have published a status."""
    try:
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
    except OSError:
        return published_pids(runtime)

"""The master process: gunicorn's, with other rules for readiness, replacement of workers, and configuration errors."""

import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gunicorn import sock
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from xksproxy.server import worker_status
from xksproxy.server.notify import ServiceManager
from xksproxy.server.replacement import Verdict, assess, served, without_hsm

_log: Final = logging.getLogger(__name__)
_EARLY_DEATH_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 10.0
_NO_PROCESS_SECONDS: Final = 1.0
_HEARTBEAT_FRESH_SECONDS: Final = 5.0
_IGNORED_SIGNALS: Final = frozenset(
    {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH},
)
_EXIT_CODE_OF_REQUEST: Final = 1
_MOST_DEATHS: Final = 3
"""If this many workers of a new configuration end by themselves, the change is undone."""


@dataclass(slots=True)
class PendingChange:
    """A configuration that some workers do not use yet, and the generation to which the master returns if it fails."""

    generation_in_use: int
    deaths: int = 0
    """The number of its workers that have ended by themselves."""


class Supervisor(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """Keeps the configured number of workers.

    It reports READY when the first worker serves, and feeds the watchdog only while a worker serves. Workers are
    replaced one after another, each when its successor serves every HSM that it has in service itself. If a successor
    cannot, the whole change is undone. A worker that dies is replaced at once; if its successors die early too, the
    pauses grow.
    """

    LISTENERS: list[Any]

    def __init__(self, app: Any) -> None:
        # Taken from the environment before gunicorn announces READY, which it does before any worker serves.
        self._manager = ServiceManager.from_environment(os.environ)
        self._retiring: set[int] = set()
        self._generation = 0
        """Counts the configurations that workers were started with."""
        self._last_generation = 0
        self._generations: dict[int, int] = {}
        """The generation of each worker."""
        self._change: PendingChange | None = None
        self._former_listeners: list[Any] = []
        """The listeners of the previous configuration, while a change is pending."""
        self._spawned_at: dict[int, float] = {}
        self._early_deaths = 0
        self._next_spawn_at = 0.0
        super().__init__(app)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """The signals that have arrived, without those that must have no effect here.

        SIGUSR2 would start a second service, which outlives this one. SIGTTIN and SIGTTOU would change the number of
        workers until the next reload.
        """
        received: list[int] = super().wait_for_signals(timeout)
        for number in _IGNORED_SIGNALS.intersection(received):
            # A terminal sends SIGWINCH whenever its window changes.
            if number != signal.SIGWINCH:
                _log.warning("signal ignored", extra={"fields": {"signal": signal.Signals(number).name}})
        return [number for number in received if number not in _IGNORED_SIGNALS]

    def start(self) -> None:
        """Listen, and log each address. gunicorn's line would name the same protocol for all listeners."""
        self.log.error_log.addFilter(_is_not_about_listeners)
        super().start()
        self.log.error_log.removeFilter(_is_not_about_listeners)
        self._log_listeners()

    def _log_listeners(self) -> None:
        for listener, protocol in zip(self.LISTENERS, self.app.protocols, strict=True):
            host, port, *_ = listener.sock.getsockname()
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            _log.info("listening", extra={"fields": {"address": address, "protocol": protocol}})

    def spawn_worker(self) -> int:
        """Start a worker, and keep the time and its generation."""
        self.app.connections.prepare()
        self.app.before_fork()
        pid: int = super().spawn_worker()
        self.app.connections.started(pid)
        self._spawned_at[pid] = time.monotonic()
        self._generations[pid] = self._generation
        return pid

    def reap_workers(self) -> None:
        """Remove the workers that have ended. After an early death, the next worker is started after a pause."""
        before = set(self.WORKERS)
        super().reap_workers()
        for pid in before - set(self.WORKERS):
            self.app.forget_worker(pid)
            generation = self._generations.pop(pid, self._generation)
            lived = time.monotonic() - self._spawned_at.pop(pid, 0.0)
            if pid in self._retiring:
                self._retiring.discard(pid)
            else:
                self._early_deaths = self._early_deaths + 1 if lived < _EARLY_DEATH_SECONDS else 0
                self._next_spawn_at = time.monotonic() + respawn_pause(self._early_deaths)
                self._count_death(generation)

    def manage_workers(self) -> None:
        """Do one step towards the configured number of workers, all with the last configuration."""
        active = [pid for pid in self.WORKERS if pid not in self._retiring]
        stale = sorted(pid for pid in active if self._generations[pid] != self._generation)
        successors_serve = self._successors_serve([pid for pid in active if pid not in stale], stale)
        if self._change and not stale and successors_serve:
            self._finish_change()
        if len(active) > self.num_workers:
            if stale and successors_serve:
                self._retire(stale[0])
            elif not stale:
                self._retire(min(active, key=lambda pid: self.WORKERS[pid].age))
        elif (len(active) < self.num_workers or (stale and successors_serve)) and self._may_spawn():
            try:
                self.spawn_worker()
            except OSError as error:
                self._put_off_the_next_worker(error)
                return
            if len(active) + 1 < self.num_workers:
                self.manage_workers()

    def _successors_serve(self, successors: Sequence[int], stale: Sequence[int]) -> bool:
        """Whether all workers of the last configuration serve what the workers that they replace serve.

        If one of them does not within its time, the change is undone.
        """
        seen = {worker.pid: worker for worker in worker_status.collect(self.app.runtime)} if stale else {}
        former = [seen[pid] for pid in stale if pid in seen]
        needed = served(former) & self.app.hsm_ids
        stores = self.app.former_keystores - without_hsm(former) if former else frozenset()
        serve = True
        for pid in successors:
            seconds = time.monotonic() - self._spawned_at[pid]
            beats = self._serves(self.WORKERS[pid])
            verdict, lacks = assess(seen.get(pid), needed, stores, beats=beats, seconds=seconds)
            if verdict is Verdict.FAILS and self._change:
                self._undo_change([*lacks])
                return False
            serve = serve and verdict is Verdict.SERVES
        return serve

    def _put_off_the_next_worker(self, error: OSError) -> None:
        """Try again later. The master is what the workers that serve depend on, so it stays."""
        self._next_spawn_at = time.monotonic() + _NO_PROCESS_SECONDS
        reason = f"{error.strerror or error}; see the limits of processes (ulimit -u, TasksMax=), memory and open files"
        _log.error("worker cannot be started", extra={"fields": {"reason": reason}})

    def _may_spawn(self) -> bool:
        return time.monotonic() >= self._next_spawn_at

    def murder_workers(self) -> None:
        """Once a second: end workers without a heartbeat, and report to the service manager.

        Raises:
            HaltServer: a worker has asked for the end of the service.
        """
        if reason := self.app.stop_request.reason:
            raise HaltServer(reason, _EXIT_CODE_OF_REQUEST)
        super().murder_workers()
        self.app.ended_workers.retry()
        self.app.follow_files()
        serving = [pid for pid, worker in self.WORKERS.items() if self._serves(worker)]
        self._manager.report(serving=bool(serving))
        self.app.worker_count.note(len(set(serving) - self._retiring), self.num_workers)

    def reload(self) -> None:
        """Handle SIGHUP. A configuration with problems changes nothing.

        Key stores, credentials, keys and certificates change inside the running workers, so that no connection is
        closed. Other changes need new workers. Workers see why a configuration was refused in the runtime directory.
        """
        match self.app.refresh():
            case "workers":
                self._begin_change()
            case "inside":
                self.kill_workers(signal.SIGHUP)
                if self._change is None:
                    self.app.confirm()
            case "nothing":
                pass

    def _begin_change(self) -> None:
        """Use the new settings and listeners of gunicorn, or undo the change if a new address cannot be bound.

        Listeners whose address stays are kept. The others are kept until all workers use the change: the old workers
        still use them, and the change may be undone.
        """
        in_use = self._former_listeners or self.LISTENERS
        kept = {listener.cfg_addr: listener for listener in [*in_use, *self.LISTENERS]}
        wanted = self.app.cfg.address
        made: dict[Any, Any] = {}
        try:
            for address in wanted:
                if address not in kept:
                    made[address] = sock._sock_type(address)(address, self.app.cfg, self.log)  # noqa: SLF001 - gunicorn's own exits
        except OSError as error:
            for listener in made.values():
                listener.close()
            self._change = self._change or PendingChange(self._generation)
            self._undo_change([f"cannot listen on {address}: {error.strerror}"])
            return
        self.setup(self.app)
        self._change = PendingChange(self._change.generation_in_use if self._change else self._generation)
        self._last_generation += 1
        self._generation = self._last_generation
        self._use_listeners([kept.get(address) or made[address] for address in wanted], in_use)
        if made:
            self._log_listeners()

    def _finish_change(self) -> None:
        """Note that all workers use the last configuration."""
        self._change = None
        self.app.confirm()
        self._use_listeners(self.LISTENERS, [])

    def _undo_change(self, problems: list[str]) -> None:
        """Go back to the last configuration that all workers used. Workers with another one are replaced."""
        change, self._change = self._change, None
        if change is None:
            return
        self.app.undo(problems)
        self.setup(self.app)
        self._use_listeners(self._former_listeners or self.LISTENERS, [])
        self._generation = change.generation_in_use
        self._early_deaths, self._next_spawn_at = 0, 0.0
        active = [pid for pid in self.WORKERS if pid not in self._retiring]
        others = [pid for pid in active if self._generations[pid] != self._generation]
        for pid in others:
            # A worker that serves stays until a worker of the old configuration has replaced it.
            if len(active) - len(others) >= self.num_workers or not self._serves(self.WORKERS[pid]):
                self._retire(pid)

    def _count_death(self, generation: int) -> None:
        change = self._change
        if change is not None and generation == self._generation:
            change.deaths += 1
            if change.deaths >= _MOST_DEATHS:
                self._undo_change(["its workers end by themselves; the log says why"])

    def _use_listeners(self, wanted: list[Any], former: list[Any]) -> None:
        """Give ``wanted`` to workers that are started from now on, keep ``former`` open, and close all others."""
        for listener in {*self.LISTENERS, *self._former_listeners} - {*wanted, *former}:
            listener.close()
        self.LISTENERS, self._former_listeners = wanted, former

    def leave_former_listeners(self) -> None:
        """In a worker: close the listeners that only workers of the previous configuration use."""
        for listener in {*self._former_listeners} - {*self.LISTENERS}:
            listener.close()

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Announce that the service stops, then let the workers finish. A second SIGTERM has the effect of SIGINT."""
        self._manager.stopping()
        self.app.announce_stop()
        signal.signal(signal.SIGTERM, lambda *_: self.SIG_QUEUE.put_nowait(signal.SIGINT))
        super().stop(graceful)

    def _retire(self, pid: int) -> None:
        self._retiring.add(pid)
        self.kill_worker(pid, signal.SIGTERM)

    @staticmethod
    def _serves(worker: Any) -> bool:
        """Whether a worker has a fresh heartbeat. The first one comes when the worker accepts connections."""
        try:
            seconds = worker.tmp.seconds_ago()
        except (OSError, ValueError):
            return False
        return seconds is not None and seconds < _HEARTBEAT_FRESH_SECONDS


def respawn_pause(early_deaths: int) -> float:
    """The seconds before the next worker is started: 0 after the first early death, then doubling up to 10."""
    return 0.0 if early_deaths <= 1 else min(_LONGEST_PAUSE_SECONDS, 0.05 * 2.0 ** min(early_deaths, 10))


def _is_not_about_listeners(record: logging.LogRecord) -> bool:
    return not record.msg.startswith("Listening at")

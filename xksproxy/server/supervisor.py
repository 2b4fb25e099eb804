"""gunicorn's master process with its traps closed: when it says ready, how it replaces workers, what ends it."""

import logging
import os
import signal
import time
from typing import Any, Final

from gunicorn import sock
from gunicorn.arbiter import Arbiter

from xksproxy.server.notify import ServiceManager

_log: Final = logging.getLogger(__name__)
_EARLY_DEATH_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 10.0
_HEARTBEAT_FRESH_SECONDS: Final = 5.0
_IGNORED_SIGNALS: Final = frozenset(
    {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH},
)


class Supervisor(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """Keeps the configured number of workers.

    READY goes out when the first worker serves, and the watchdog is fed only while one does. Workers are replaced one
    after another, each only once its successor serves. One that dies is replaced at once, but with growing pauses when
    its successors die young too.
    """

    LISTENERS: list[Any]

    def __init__(self, app: Any) -> None:
        # Taken from the environment before gunicorn announces READY, which it does before any worker serves.
        self._manager = ServiceManager.from_environment(os.environ)
        self._retiring: set[int] = set()
        self._stale_age = 0
        self._spawned_at: dict[int, float] = {}
        self._early_deaths = 0
        self._next_spawn_at = 0.0
        super().__init__(app)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """The signals that have arrived, without those that gunicorn would obey although nothing here needs them.

        SIGUSR2 would start a second service, which outlives this one. SIGTTIN and SIGTTOU would change the number of
        workers until the next reload.
        """
        received: list[int] = super().wait_for_signals(timeout)
        for number in _IGNORED_SIGNALS.intersection(received):
            # A terminal sends SIGWINCH whenever its window changes.
            if number != signal.SIGWINCH:
                _log.warning("signal ignored", extra={"fields": {"signal": signal.Signals(number).name}})
        return [number for number in received if number not in _IGNORED_SIGNALS]

    def spawn_worker(self) -> int:
        """Start a worker and remember when."""
        pid: int = super().spawn_worker()
        self._spawned_at[pid] = time.monotonic()
        return pid

    def reap_workers(self) -> None:
        """Take leave of workers that ended; a worker that died young makes the next one wait."""
        before = set(self.WORKERS)
        super().reap_workers()
        for pid in before - set(self.WORKERS):
            self.app.forget_worker(pid)
            lived = time.monotonic() - self._spawned_at.pop(pid, 0.0)
            if pid in self._retiring:
                self._retiring.discard(pid)
            else:
                self._early_deaths = self._early_deaths + 1 if lived < _EARLY_DEATH_SECONDS else 0
                self._next_spawn_at = time.monotonic() + respawn_pause(self._early_deaths)

    def manage_workers(self) -> None:
        """One step towards the wanted workers: as many as configured, none older than the configuration."""
        active = {pid: worker for pid, worker in self.WORKERS.items() if pid not in self._retiring}
        stale = sorted(pid for pid, worker in active.items() if worker.age <= self._stale_age)
        successors_serve = all(self._serves(worker) for pid, worker in active.items() if pid not in stale)
        if len(active) > self.num_workers:
            if stale and successors_serve:
                self._retire(stale[0])
            elif not stale:
                self._retire(min(active, key=lambda pid: active[pid].age))
        elif (len(active) < self.num_workers or (stale and successors_serve)) and self._may_spawn():
            self.spawn_worker()
            if len(active) + 1 < self.num_workers:
                self.manage_workers()

    def _may_spawn(self) -> bool:
        return time.monotonic() >= self._next_spawn_at

    def murder_workers(self) -> None:
        """Once a second: end workers whose heart has stopped, and tell the service manager how things are."""
        super().murder_workers()
        self._manager.report(serving=any(self._serves(worker) for worker in self.WORKERS.values()))

    def reload(self) -> None:
        """SIGHUP. A configuration that cannot be used changes nothing.

        Key stores, credentials, keys and certificates change inside the running workers, so that no connection is cut;
        what a worker is built with, in workers that replace them. A refused one goes to them too: each refuses it
        by itself, and says so in its metrics.
        """
        if self.app.refresh() == "workers":
            if self._adopt_settings():
                self._stale_age = self.worker_age
            else:
                self.app.take_back()
        else:
            self.kill_workers(signal.SIGHUP)

    def _adopt_settings(self) -> bool:
        """Take over gunicorn's settings and listeners, or nothing if a new address cannot be had; whether they were.

        Listeners whose address stays are kept: the workers that still serve hold them too.
        """
        kept = {listener.cfg_addr: listener for listener in self.LISTENERS}
        wanted = self.app.cfg.address
        made: dict[Any, Any] = {}
        try:
            for address in wanted:
                if address not in kept:
                    made[address] = sock._sock_type(address)(address, self.app.cfg, self.log)  # noqa: SLF001 - gunicorn's own exits
        except OSError as error:
            for listener in made.values():
                listener.close()
            problem = f"cannot listen on {address}: {error.strerror}"
            _log.error("configuration refused", extra={"fields": {"problems": [problem]}})
            return False
        self.setup(self.app)
        for address, listener in kept.items():
            if address not in wanted:
                listener.close()
        self.LISTENERS = [kept.get(address) or made[address] for address in wanted]
        return True

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Say that the service stops, then let the workers finish."""
        self._manager.stopping()
        super().stop(graceful)

    def _retire(self, pid: int) -> None:
        self._retiring.add(pid)
        self.kill_worker(pid, signal.SIGTERM)

    @staticmethod
    def _serves(worker: Any) -> bool:
        """Whether a worker's heart beats. Its first beat comes when it accepts connections.

        gunicorn keeps the beat as monotonic time in the mtime of a file, which until then is the time of day.
        """
        try:
            return bool(0 <= time.monotonic() - worker.tmp.last_update() < _HEARTBEAT_FRESH_SECONDS)
        except (OSError, ValueError):
            return False


def respawn_pause(early_deaths: int) -> float:
    """Seconds to wait before the next worker: none after the first early death, then doubling up to ten."""
    return 0.0 if early_deaths <= 1 else min(_LONGEST_PAUSE_SECONDS, 0.05 * 2.0 ** min(early_deaths, 10))

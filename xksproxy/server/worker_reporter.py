"""Reports the status of this worker: as gauges, and in a file for the other workers."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.instance.instance import Instance, State
from xksproxy.server import reload_problem
from xksproxy.server.accepted_files import read_accepted_state
from xksproxy.server.conditions import Condition
from xksproxy.server.find_conditions import ConditionFinder
from xksproxy.server.readiness import Readiness
from xksproxy.server.record import Recorder
from xksproxy.server.services import Services
from xksproxy.server.worker_status import Changing, HsmStatus, InForce, RecordRevisions, StatusFile, WorkerStatus
from xksproxy.telemetry.metrics import Metrics

_log: Final = logging.getLogger(__name__)


class WorkerReporter:
    """Publishes gauges and the status of this worker."""

    def __init__(
        self,
        services: Services,
        recorder: Recorder,
        readiness: Readiness,
        finder: ConditionFinder,
        *,
        directory: Path,
        connections: Callable[[], int],
        memory_problem: str,
    ) -> None:
        """Report to ``directory``.

        ``connections`` counts those to the public port. ``memory_problem`` says why the memory is not locked.
        """
        self._services = services
        self._recorder = recorder
        self._readiness = readiness
        self._conditions: tuple[Condition, ...] = ()
        self._finder = finder
        self._directory = directory
        self._connections = connections
        self._memory_problem = memory_problem
        self._started = time.time()
        self._returns: dict[str, int] = {}
        self._file = StatusFile(directory, os.getpid())
        self._reload = ""
        self._leaving = False

    def follow_reload(self, request: str) -> None:
        """Note that this worker has followed a request for a reload."""
        self._reload = request

    def leave(self, request: str) -> None:
        """Note that this worker ends. It counts as one that has followed a request for a reload."""
        self._reload, self._leaving = request, True

    def report(self) -> None:
        """Set the gauges and write the status file; call it on a thread."""
        metrics = self._recorder.metrics
        metrics.workers.labels().set(1)
        metrics.workers_ready.labels().set(self._readiness.machine())
        metrics.in_flight.labels().set(self._recorder.in_flight)
        metrics.connections.labels().set(self._connections())
        metrics.loaded_at.labels().set(self._services.snapshot.loaded_at)
        metrics.config_number.labels().set(self._services.number)
        if (accepted := read_accepted_state(self._directory)) is not None:
            metrics.config_accepted_number.labels().set(accepted.number)
            metrics.config_files_differ.labels().set(accepted.differ_since or 0)
        for instance in self._services.instances:
            self._report_hsm(metrics, instance)
        self._report_conditions(metrics)
        state, loaded_at = self._services.state, self._services.snapshot.loaded_at
        self._file.publish(
            self.status(),
            Changing((loaded_at, state.revisions_generation, state.token_witness.unread), self._in_force),
            Changing(state.records_generation, self._record_revisions),
        )

    def _in_force(self) -> InForce:
        services, state = self._services, self._services.state
        return InForce(
            str(state.directory),
            state.revisions,
            state.refused,
            services.accepted_credentials,
            state.token_witness.unread,
        )

    def _record_revisions(self) -> RecordRevisions:
        state = self._services.state
        return RecordRevisions(str(state.directory), state.record_revisions)

    def _report_conditions(self, metrics: Metrics) -> None:
        """Find the conditions, and log each that is new or has ended."""
        before = {item.subject: item for item in self._conditions}
        self._conditions = self._finder.find(reload_problem.read(self._directory), self._file.problem)
        now = {item.subject: item for item in self._conditions}
        metrics.set_conditions(now)
        for subject in sorted(now.keys() - before.keys()):
            _log.warning("condition", extra={"fields": _fields(now[subject])})
        for subject in sorted(before.keys() - now.keys()):
            _log.info("condition has ended", extra={"fields": _fields(before[subject])})

    def _report_hsm(self, metrics: Metrics, instance: Instance) -> None:
        for state in State:
            metrics.hsm_state.labels(instance.id, state.name.lower()).set(instance.state is state)
        stuck = instance.stuck_sessions
        busy = min(instance.load - stuck, instance.sessions)
        for name, count in (("idle", instance.sessions - busy), ("busy", busy), ("stuck", stuck)):
            metrics.hsm_sessions.labels(instance.id, name).set(count)
        metrics.hsm_call_seconds.labels(instance.id).set(instance.call_seconds)
        metrics.hsm_too_slow.labels(instance.id).set(instance.too_slow_to_verify)
        metrics.hsm_returns.labels(instance.id).inc(instance.returns - self._returns.get(instance.id, 0))
        self._returns[instance.id] = instance.returns

    def status(self) -> WorkerStatus:
        """The status of this worker."""
        return WorkerStatus(
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            in_flight=self._recorder.in_flight,
            ready=self._readiness.machine(),
            conditions=self._conditions,
            hsms=tuple(map(_hsm_status, self._services.instances)),
            refusals=tuple(self._recorder.refusals),
            reload=self._reload,
            clock_offset=self._recorder.clock.offset(time.monotonic()),
            configuration=self._services.number,
            leaving=self._leaving,
            memory_problem=self._memory_problem,
        )


def _hsm_status(instance: Instance) -> HsmStatus:
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


def _fields(condition: Condition) -> dict[str, str]:
    return {name: str(value) for name, value in msgspec.structs.asdict(condition).items() if value}

"""Reporting the status of this worker: as gauges, and in a file for the other workers."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from xksproxy.hsm.instance.instance import Instance, State
from xksproxy.server.record import Recorder
from xksproxy.server.services import Services
from xksproxy.server.worker_status import WorkerStatus, hsm_status, publish
from xksproxy.telemetry.metrics import Metrics


class WorkerReporter:
    """Publishes gauges and the status of this worker."""

    def __init__(self, services: Services, recorder: Recorder, directory: Path, connections: Callable[[], int]) -> None:
        """``connections`` counts those to the public port."""
        self._services = services
        self._recorder = recorder
        self._directory = directory
        self._connections = connections
        self._started = time.time()
        self._returns: dict[str, int] = {}
        self.reload = ""
        """The last request for a reload that this worker has followed."""

    @property
    def _problem(self) -> str:
        return self._services.problem or self._recorder.problem

    def report(self) -> None:
        """Set the gauges and write the status file; call it on a thread."""
        metrics = self._recorder.metrics
        metrics.workers.set(1)
        metrics.workers_ready.set(self._services.ready and not self._problem)
        metrics.in_flight.set(self._recorder.in_flight)
        metrics.connections.set(self._connections())
        metrics.loaded_at.set(self._services.snapshot.loaded_at)
        for instance in self._services.instances:
            self._report_hsm(metrics, instance)
        publish(self._directory, self._status())

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

    def _status(self) -> WorkerStatus:
        return WorkerStatus(
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            in_flight=self._recorder.in_flight,
            ready=self._services.ready and not self._problem,
            problem=self._problem,
            hsms=tuple(map(hsm_status, self._services.instances)),
            refusals=tuple(self._recorder.refusals),
            revisions=dict(self._services.revisions),
            credentials=self._services.accepted_credentials,
            reload=self.reload,
            clock_offset=self._recorder.clock.offset(time.monotonic()),
            clock_error=self._recorder.clock.error(time.monotonic()),
        )

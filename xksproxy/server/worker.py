"""A gunicorn worker process: it builds everything after the fork, serves, drains and ends."""

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.workers import base

from xksproxy.config.check import has_admin, read_audit_key
from xksproxy.config.resource_checks import FILES_BESIDE_CONNECTIONS
from xksproxy.exhaustion import exhaustion
from xksproxy.server import reload_problem, reload_verdict, respond
from xksproxy.server.accepted import Accepted
from xksproxy.server.admin import Admin
from xksproxy.server.admin_hosts import AdminHosts
from xksproxy.server.find_conditions import ConditionFinder
from xksproxy.server.freed_memory import FreedMemory, MemoryReturn
from xksproxy.server.heartbeat import Heartbeat
from xksproxy.server.http.connection_table import ConnectionTable
from xksproxy.server.http.listener import Listener
from xksproxy.server.http.service import HttpService
from xksproxy.server.http.stranger_log import StrangerLog
from xksproxy.server.life_cycle import LifeCycle, has_witness, keep_on_tokens, witness_lines
from xksproxy.server.memory_lock import MemoryLock
from xksproxy.server.peer import PeerReader
from xksproxy.server.pipeline import Pipeline
from xksproxy.server.plain_http import PlainListener
from xksproxy.server.probes import Probes
from xksproxy.server.readiness import Readiness
from xksproxy.server.record import Recorder
from xksproxy.server.regular_steps import once_a_second, regularly
from xksproxy.server.reloading import Reloading
from xksproxy.server.reserve_ahead import note_nearly_used, reserve_ahead
from xksproxy.server.runtime import RuntimeCheck
from xksproxy.server.services import Services
from xksproxy.server.shutdown import CLOSE_SECONDS, drain_seconds, service_stops
from xksproxy.server.standby import Standby
from xksproxy.server.state_tables import guarded
from xksproxy.server.worker_reporter import WorkerReporter
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.metrics import Metrics
from xksproxy.telemetry.tracer import build_tracer

_log: Final = logging.getLogger(__name__)
SWITCH_INTERVAL_SECONDS: Final = 0.0001
_YOUNG_OBJECTS: Final = 5_000
"""The number of new objects after which the garbage collector searches for cycles. A few requests reach the default of
700, and make hardly any cycles."""

_FIRST_CONNECT_SECONDS: Final = 3.0
_PREPARE_SECONDS: Final = 1.0
_LEAVE_SECONDS: Final = 5.0
_FAILED_START_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.05
FOLLOW_SECONDS: Final = 0.4
"""The pause between two looks at what changed on disk, and between two reports of the status."""

base.WorkerTmp = Heartbeat  # gunicorn has no setting for it


class XksWorker(GunicornUVLoopWebWorker):
    """Serves the configuration that the master's application loads."""

    def init_process(self) -> None:
        """Set the process up. HSM threads take turns often, so the interpreter switches threads sooner than usual."""
        gc.disable()  # while thousands of key stores are built, its searches take longer than the building
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._memory = MemoryLock()
        self._memory.lock()
        super().init_process()

    def init_signals(self) -> None:
        """Handle SIGHUP from the master by a new snapshot."""
        super().init_signals()
        self._reload_wanted = False
        self._reload_task: asyncio.Task[None] | None = None
        self._reload_problem = False
        self._in_a_hurry = False
        self.loop.add_signal_handler(signal.SIGHUP, self._want_reload)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop now, not at the next heartbeat."""
        super().handle_exit(sig, frame)
        self._notify_waiter_done()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop without waiting for clients. Requests in flight are still answered."""
        self._in_a_hurry = True
        super().handle_quit(sig, frame)

    def _want_reload(self) -> None:
        self._reload_wanted = True
        self._notify_waiter_done()

    async def _run(self) -> None:
        # If a worker raises before it has booted, gunicorn ends the whole service. This one ends only itself.
        self.booted = True
        try:
            await self._serve(self.app.accepted)
        except Exception as error:  # noqa: BLE001 - whatever it is
            if reason := exhaustion(error):
                _log.error("worker failed", extra={"fields": {"reason": reason}})
            else:
                _log.exception("worker failed")
            time.sleep(_FAILED_START_SECONDS)  # noqa: ASYNC251 - nothing else runs any more
            _leave(1)

    async def _serve(self, accepted: Accepted) -> None:
        config, directory = accepted.config, self.app.runtime
        give_back = MemoryReturn(self._memory)
        # A SIGHUP between the fork and the set-up of this process's handler is lost.
        self._reload_wanted = self._reload_wanted or self.app.handover.number != accepted.number
        known = self.app.known_revisions()
        services = Services(config, directory, self.app.policies, accepted, self.app.state_identity(), known=known)
        audit = AuditLog(config.audit, read_audit_key(config.audit))
        recorder = Recorder(audit, Metrics(directory), build_tracer(config.tracing))
        life_cycle = LifeCycle(
            recorder.audit,
            Path(config.state.directory),
            witness_lines(config, services),
            writes_state=has_witness(config),
            keep=partial(keep_on_tokens, services),
        )
        life_cycle.begin()
        recorder.metrics.reload_failed.labels().set(0)
        pipeline = Pipeline(services, config.server, recorder)
        table = ConnectionTable(_most_connections(config.server.max_connections))
        count_refusal = recorder.metrics.count_proxy_protocol_refusal
        peers = PeerReader(config.server.proxy_protocol, count_refusal)
        probed_peers = PeerReader(config.server.proxy_protocol, count_refusal, required=False)
        service = HttpService(pipeline.handle, respond.refusal, lambda: services.snapshot, peers, table)
        runtime = RuntimeCheck(directory)
        readiness = Readiness(
            config.health,
            services,
            refuses=lambda: bool(pipeline.draining or recorder.problem or runtime.problem),
            elsewhere=lambda: standby.elsewhere,
        )
        probes = Probes(readiness)
        finder = ConditionFinder(services, recorder, self.app.worker_count, runtime, lambda: standby.elsewhere)
        reporter = WorkerReporter(
            services,
            recorder,
            readiness,
            finder,
            directory=directory,
            connections=lambda: len(table),
            memory_problem=self._memory.problem,
        )
        admin = Admin(
            services,
            recorder,
            probes,
            reporter,
            directory=directory,
            fleet_size=config.server.fleet_size,
            most_series=config.metrics.max_series,
            hosts=AdminHosts.of(config.admin),
            give_back=give_back,
        )
        reporter.follow_reload(accepted.request)
        # The master binds them in this order.
        sockets = [listener.sock for listener in self.sockets]
        listener = Listener(sockets.pop(0), service, self.app.connections)
        plain = [
            PlainListener(sockets.pop(0), handle, peers)
            for handle, peers, wanted in (
                (probes.handle, probed_peers, config.health.listen is not None),
                (admin.handle, None, has_admin(config)),
            )
            if wanted
        ]
        standby = Standby(services, listener, service, directory)
        await _start(services)
        _collect_garbage_from_now_on()
        listener.start()
        for each in plain:
            await each.start()
        freed = FreedMemory(lambda: len(table), give_back)
        regular = (recorder.metrics.publish, recorder.audit.sync, services.state.flush_uses, freed.follow)
        more_often = (
            partial(_follow_state, services, recorder, life_cycle),
            partial(_report, reporter, standby),
        )
        endless = (*(regularly(step, FOLLOW_SECONDS) for step in more_often), *map(once_a_second, regular))
        steps = [asyncio.create_task(step) for step in endless]
        take = partial(self.app.handover.take, self.app.policies)
        reloading = Reloading(take, self.wsgi, services, recorder.metrics, directory)
        await self._beat(services, recorder, reporter, reloading, service.log)
        reporter.leave(reload_verdict.requested(directory))
        await self._drain(pipeline, service, listener, plain, drain_seconds(config))
        for step in steps:
            step.cancel()
        services.stop()
        await life_cycle.follow()
        recorder.close()
        life_cycle.close()
        service.log.write_sums()
        services.state.return_counts()
        _leave(0)

    async def _beat(
        self,
        services: Services,
        recorder: Recorder,
        reporter: WorkerReporter,
        reloading: Reloading,
        strangers: StrangerLog,
    ) -> None:
        """Send a heartbeat to the master once a second, until this process must stop or only a new one can help."""
        while self.alive:
            self.notify()
            if self._reload_wanted and (self._reload_task is None or self._reload_task.done()):
                self._reload_wanted = False
                if self.app.handover.number != services.number:
                    self._reload_task = asyncio.create_task(reloading.reload(reporter.follow_reload))
                else:
                    _log.info("configuration in use already", extra={"fields": {"number": services.number}})
            self._note_reload_problem(recorder.metrics)
            recorder.beat()
            strangers.beat()
            if reason := recorder.audit.stop_reason:
                self.app.stop_request.ask(reason)
            if self.ppid != os.getppid():
                _log.warning("the master process is gone, leaving")
                return
            if services.needs_new_process:
                _log.error("no HSM call returns, leaving this process to be replaced")
                return
            await self._wait_next_notify()

    def _note_reload_problem(self, metrics: Metrics) -> None:
        """Set the metric of failed reloads while the last change of the configuration is not in use."""
        problem = bool(reload_problem.read(self.app.runtime))
        if problem != self._reload_problem:
            self._reload_problem = problem
            metrics.reload_failed.labels().set(problem)

    async def _drain(
        self,
        pipeline: Pipeline,
        service: HttpService,
        listener: Listener,
        plain: list[PlainListener],
        seconds: float,
    ) -> None:
        """Close connections after their answers. If the service stops, refuse readiness and serve for ``seconds`` more.

        Then stop accepting, and wait at most 5 s until the connections are closed. A worker that is only replaced stays
        ready, because the load balancer asks about the machine.
        """
        service.draining = True
        pipeline.draining = service_stops(self.app.runtime)
        await self._serve_on(seconds if pipeline.draining else CLOSE_SECONDS)
        await listener.stop_accepting(in_all_processes=pipeline.draining)
        draining = asyncio.create_task(listener.drain(0 if self._in_a_hurry else _LEAVE_SECONDS))
        while not draining.done():
            self.notify()
            await asyncio.wait((draining,), timeout=_POLL_SECONDS)
        await asyncio.gather(*(each.stop() for each in plain))

    async def _serve_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._in_a_hurry:
            self.notify()
            await asyncio.sleep(_POLL_SECONDS)


def _collect_garbage_from_now_on() -> None:
    """Leave out the objects so far, which live as long as the worker."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()


async def _follow_state(services: Services, recorder: Recorder, life_cycle: LifeCycle) -> None:
    """Read what commands and other workers have changed on disk. Nothing else waits for it."""
    for keystore, change in await asyncio.to_thread(services.refresh_state):
        recorder.record_block(keystore, change)
    for instance in services.instances:
        life_cycle.follow_hsm(instance)
    with services.state.reading():
        await life_cycle.follow()


async def _report(reporter: WorkerReporter, standby: Standby) -> None:
    """Publish the status of this worker and follow that of the others, in memory."""

    def exchange() -> frozenset[str]:
        reporter.report()
        return standby.hsms_of_others()

    standby.update(await asyncio.to_thread(exchange))


def _most_connections(wanted: int) -> int:
    """The wanted number of connections, or fewer if the limit of open files is too low for it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowed = max(1, limit - FILES_BESIDE_CONNECTIONS) if limit != resource.RLIM_INFINITY else wanted
    if allowed < wanted:
        fields = {"connections": allowed, "open_files": limit, "needed": wanted + FILES_BESIDE_CONNECTIONS}
        _log.warning("fewer connections than max_connections", extra={"fields": fields})
    return min(wanted, allowed)


def _leave(code: int) -> None:
    """End the process at once. A normal exit would wait for calls that are stuck in a PKCS#11 module."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(code)


async def _start(services: Services) -> None:
    """Start the HSM threads; wait for a while until HSMs are connected and the state directory is prepared."""
    services.start()
    prepared = asyncio.create_task(asyncio.to_thread(_prepare_state, services))
    await services.tried(_FIRST_CONNECT_SECONDS)
    await asyncio.wait({prepared}, timeout=_PREPARE_SECONDS)
    if prepared.done():
        prepared.result()  # it raises if there was no thread for it


def _prepare_state(services: Services) -> None:
    """Write what must be in the state directory before the first request, if the disk is not too slow."""
    guarded(services.state.register)
    guarded(partial(reserve_ahead, services))
    guarded(partial(note_nearly_used, services))

"""The admin listener: metrics for Prometheus, and the state of this machine for programs and people."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader
from prometheus_client.exposition import choose_encoder

from xksproxy.keystore.key_map import ExternalKey
from xksproxy.keystore.versions import KeyVersions
from xksproxy.printable import printable
from xksproxy.server import worker_status
from xksproxy.server.admin_hosts import REFUSAL, AdminHosts
from xksproxy.server.conditions import Cause, Condition, Severity
from xksproxy.server.probes import Probes, probe
from xksproxy.server.record import Recorder
from xksproxy.server.runtime import RuntimeCheck
from xksproxy.server.services import Services
from xksproxy.server.status import condition_document, status_document
from xksproxy.server.worker_reporter import WorkerReporter
from xksproxy.server.worker_status import WorkerStatus
from xksproxy.spec.errors import XksError
from xksproxy.telemetry.collectors import CredentialInfo, KeyLimit, MachineCollector, MachineInfo
from xksproxy.telemetry.metrics import Encoder

_HEADERS: Final = {"Server": "xksproxy", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_TEXT: Final = "text/plain; charset=utf-8"
_CONTENT_SECURITY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Admin:
    """``/metrics``, ``/status``, ``/``, and the probes. It reads files for its answers, on threads."""

    def __init__(
        self,
        services: Services,
        recorder: Recorder,
        probes: Probes,
        reporter: WorkerReporter,
        *,
        directory: Path,
        fleet_size: int,
        hosts: AdminHosts,
    ) -> None:
        """``directory`` is where the workers publish metrics and status."""
        self._hosts = hosts
        self._services = services
        self._recorder = recorder
        self._probes = probes
        self._reporter = reporter
        self._directory = directory
        self._runtime = RuntimeCheck(directory)
        self._fleet_size = fleet_size
        environment = Environment(loader=PackageLoader("xksproxy.server"), autoescape=True, finalize=_printable)
        self._page = environment.get_template("status.html.jinja")

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer an operator or Prometheus. A Host that is not accepted gets 421 (RFC 9110, 15.5.20)."""
        if not self._hosts.accepts(request.headers.getall("Host", [])):
            return _response(REFUSAL.encode(), _TEXT, 421)
        if request.method not in ("GET", "HEAD"):
            return probe(405)
        self._recorder.metrics.publish()
        match request.raw_path:
            case "/metrics":
                return await self._answer_metrics(request.headers.get("Accept", ""))
            case "/status":
                document = await asyncio.to_thread(self._document)
                return _response(json.dumps(document, indent=2).encode() + b"\n", "application/json")
            case "/":
                document = await asyncio.to_thread(self._document)
                return _response(self._page.render(document).encode(), "text/html; charset=utf-8")
        return await self._probes.handle(request)

    async def _answer_metrics(self, accept: str) -> web.Response:
        """Answer in the format that the client accepts: OpenMetrics, which has exemplars, or Prometheus's text."""
        if problem := self._runtime.problem:
            return _response(problem.encode(), _TEXT, 503)
        encode, content_type = choose_encoder(accept)
        return _response(await asyncio.to_thread(self._metrics, encode), content_type)

    def _metrics(self, encode: Encoder) -> bytes:
        snapshot = self._services.snapshot
        machine = MachineInfo(
            limits=self._limits,
            credentials=tuple(self._credentials()),
            certificate_name=snapshot.certificate.name,
            certificate_expiry=snapshot.certificate.expires,
        )
        return self._recorder.metrics.render([MachineCollector(machine, self._services.usage)], encode)

    def _limits(self, counted_as: str) -> Iterable[KeyLimit]:
        """The external keys that are counted under a name."""
        for service in self._services.snapshot.services.values():
            store = service.store
            for name in (counted_as, *self._services.usage.names.others(counted_as)):
                key = store.keys.key_of_label(name)
                version = None if key is None else key.version_of(name)
                if key is not None and version is not None:
                    primary = _is_primary(store.versions, key, name)
                    yield KeyLimit(store.name, key.id, version, key.maximum_encryptions, primary)

    def _credentials(self) -> Iterable[CredentialInfo]:
        for service in self._services.snapshot.services.values():
            store, used = service.store, service.store.credentials_used()
            for access_key_id, created in store.credentials_created.items():
                yield CredentialInfo(store.name, access_key_id, created, used.get(access_key_id))

    def _workers(self) -> list[WorkerStatus]:
        """What all workers report. This one is there even if it cannot write its status."""
        own = self._reporter.status()
        others = [worker for worker in worker_status.collect(self._directory) if worker.pid != own.pid]
        return sorted([own, *others], key=lambda worker: worker.pid)

    def _document(self) -> dict[str, Any]:
        services = self._services
        labels = {label for instance in services.instances for label in instance.labels}
        document = status_document(services.snapshot, self._workers(), labels, services.usage, self._fleet_size)
        if problem := self._runtime.problem:
            condition = Condition(Severity.UNAVAILABLE, Cause.RUNTIME, "", "", problem)
            document["conditions"].append(condition_document(condition))
            return {**document, "latency": []}
        return {**document, "latency": self._recorder.metrics.latency()}


def _printable(value: Any) -> Any:
    """A value of the page, which somebody may read on a terminal. Marked-up text of the template stays as it is."""
    return printable(value) if type(value) is str else value


def _is_primary(versions: KeyVersions, key: ExternalKey, label: str) -> bool:
    """Whether a label is that of the version that encrypts; none does while that cannot be read."""
    try:
        return versions.primary(key).label == label
    except XksError:
        return False


def _response(body: bytes, content_type: str, status: int = 200) -> web.Response:
    headers = {**_HEADERS, "Content-Type": content_type, "Content-Security-Policy": _CONTENT_SECURITY}
    return web.Response(status=status, body=body, headers=headers)

"""The admin listener: metrics for Prometheus, and the state of this machine for programs and people."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from aiohttp import web
from jinja2 import Environment, PackageLoader
from prometheus_client.exposition import choose_encoder

from xksproxy.printable import printable
from xksproxy.server import worker_status
from xksproxy.server.accepted_files import read_accepted_state
from xksproxy.server.admin_hosts import REFUSAL, AdminHosts
from xksproxy.server.probes import Probes, probe
from xksproxy.server.record import Recorder
from xksproxy.server.runtime import RuntimeCheck
from xksproxy.server.scrapes import Scrapes
from xksproxy.server.services import Services
from xksproxy.server.status import NoSuchKeystore, StatusSource, status_document
from xksproxy.server.worker_reporter import WorkerReporter
from xksproxy.server.worker_status import WorkerStatus

_HEADERS: Final = {"Server": "xksproxy", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_THREADS: Final = 2
_ANSWER_SECONDS: Final = 4.0
"""Less than `xksproxy status` waits."""

_UNANSWERED: Final = b"the file system of the state directory does not answer\n"
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
        most_series: int,
        hosts: AdminHosts,
        give_back: Callable[[], object],
    ) -> None:
        """``directory`` is where the workers publish metrics and status; ``give_back`` is for :class:`Scrapes`."""
        self._hosts = hosts
        self._services = services
        self._recorder = recorder
        self._probes = probes
        self._reporter = reporter
        self._directory = directory
        self._runtime = RuntimeCheck(directory)
        self._fleet_size = fleet_size
        # Threads of their own, so that answers that wait for a disk keep no others from theirs.
        self._threads = ThreadPoolExecutor(_THREADS, "admin")
        self._scrapes = Scrapes(services, recorder.metrics, most_series, give_back, self._threads)
        environment = Environment(loader=PackageLoader("xksproxy.server"), autoescape=True, finalize=_printable)
        self._page = environment.get_template("status.html.jinja")

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer an operator or Prometheus. A Host that is not accepted gets 421 (RFC 9110, 15.5.20)."""
        if not self._hosts.accepts(request.headers.getall("Host", [])):
            return _response(REFUSAL.encode(), _TEXT, 421)
        if request.method not in ("GET", "HEAD"):
            return probe(405)
        path, _, query = request.raw_path.partition("?")
        match path:
            case "/metrics":
                return await self._answer_metrics(request.headers.get("Accept", ""))
            case "/status":
                return await self._answer_status(query, _json, "application/json")
            case "/":
                return await self._answer_status(query, self._page.render, "text/html; charset=utf-8")
        return await self._probes.handle(request)

    async def _answer_status(
        self, query: str, render: Callable[[dict[str, Any]], str], content_type: str
    ) -> web.Response:
        """Answer with the status; ``keystore=NAME`` in the query asks for one key store."""
        keystore = next(iter(parse_qs(query).get("keystore", ())), None)
        loop = asyncio.get_running_loop()
        try:
            rendering = loop.run_in_executor(self._threads, lambda: render(self._document(keystore)).encode())
            content = await asyncio.wait_for(rendering, _ANSWER_SECONDS)
        except TimeoutError:
            return _response(_UNANSWERED, _TEXT, 503)
        except NoSuchKeystore:
            return _response(b"no key store has this name\n", _TEXT, 404)
        return _response(content, content_type)

    async def _answer_metrics(self, accept: str) -> web.Response:
        """Answer in the format that the client accepts: OpenMetrics, which has exemplars, or Prometheus's text."""
        if problem := self._runtime.problem:
            return _response(problem.encode(), _TEXT, 503)
        encode, content_type = choose_encoder(accept)
        try:
            content = await asyncio.wait_for(self._scrapes.render(encode), _ANSWER_SECONDS)
        except TimeoutError:
            return _response(_UNANSWERED, _TEXT, 503)
        return _response(content, content_type)

    def _workers(self) -> list[WorkerStatus]:
        """What all workers report. This one is there even if it cannot write its status."""
        own = self._reporter.status()
        others = [worker for worker in worker_status.collect(self._directory) if worker.pid != own.pid]
        return sorted([own, *others], key=lambda worker: worker.pid)

    def _document(self, keystore: str | None) -> dict[str, Any]:
        services = self._services
        labels = {label for instance in services.instances for label in instance.keys.labels}
        accepted = read_accepted_state(self._directory)
        source = StatusSource(
            services.snapshot, self._workers(), labels, services.state.usage, self._fleet_size, accepted
        )
        latency = [] if self._runtime.problem else self._recorder.metrics.latency()
        return {**status_document(source, keystore), "latency": latency}


def _printable(value: Any) -> Any:
    """A value of the page, which somebody may read on a terminal. Marked-up text of the template stays as it is."""
    return printable(value) if type(value) is str else value


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _response(body: bytes, content_type: str, status: int = 200) -> web.Response:
    headers = {**_HEADERS, "Content-Type": content_type, "Content-Security-Policy": _CONTENT_SECURITY}
    return web.Response(status=status, body=body, headers=headers)

"""The health listener: plain HTTP for load balancers, which works also with mutual TLS (R-LB-1, R-LB-2)."""

from typing import Final

from aiohttp import web

from xksproxy.server.readiness import Readiness

_STORE: Final = "/readyz/"


class Probes:
    """Answers ``/livez`` while the process runs, ``/readyz`` and ``/readyz/NAME`` while it serves, and nothing else."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer a probe."""
        if request.method not in ("GET", "HEAD"):
            return probe(405)
        path, _, _ = request.raw_path.partition("?")
        if path == "/livez":
            return probe(200)
        if path == "/readyz":
            return probe(200 if self._readiness.machine() else 503)
        ready = self._readiness.store(path.removeprefix(_STORE)) if path.startswith(_STORE) else None
        return probe(404 if ready is None else 200 if ready else 503)


def probe(status: int) -> web.Response:
    """An answer that has no information besides its status."""
    return web.Response(status=status, body=b"{}", content_type="application/json", headers={"Server": "xksproxy"})

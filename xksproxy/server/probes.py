"""The health listener: plain HTTP for load balancers, working while mutual TLS is on (R-LB-1, R-LB-2)."""

from collections.abc import Callable

from aiohttp import web


class Probes:
    """``/livez`` while the process runs, ``/readyz`` while it can serve Encrypt and Decrypt, and nothing else."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer a probe."""
        if request.method not in ("GET", "HEAD"):
            return probe(405)
        if request.raw_path == "/livez":
            return probe(200)
        if request.raw_path == "/readyz":
            return probe(200 if self._ready() else 503)
        return probe(404)


def probe(status: int) -> web.Response:
    """An answer whose status says it all."""
    return web.Response(status=status, body=b"{}", content_type="application/json", headers={"Server": "xksproxy"})

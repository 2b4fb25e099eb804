"""From results and errors of the API to HTTP responses. The only place that makes them."""

from typing import Final

from aiohttp import web

from xksproxy.spec.errors import XksError
from xksproxy.spec.messages import ErrorResponse, Response, encode

_JSON: Final = "application/json"


def success(message: Response) -> web.Response:
    """A 200 with the message as JSON (R-REQ-1)."""
    return _json(200, encode(message))


def failure(error: XksError) -> web.Response:
    """The error's status and its JSON body (R-ERR-1, R-ERR-4)."""
    response = _json(error.http_status, encode(ErrorResponse(error_name=error.name, error_message=error.message)))
    if error.http_status == 405:  # noqa: PLR2004 - RFC 9110 section 15.5.6 asks for Allow
        response.headers["Allow"] = "POST"
    return response


def pong() -> web.Response:
    """The answer to ``GET /ping``, which discloses nothing."""
    return _json(200, b"{}")


def probe(status: int) -> web.Response:
    """The answer to a load balancer's probe: its status says it all."""
    return _json(status, b"{}")


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type=_JSON, headers={"Server": "xksproxy"})

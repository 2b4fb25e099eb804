"""Makes the HTTP responses from results and errors of the API."""

from typing import Final

from xksproxy.server.http.errors import BadRequest
from xksproxy.server.http.messages import Response
from xksproxy.spec.errors import ValidationException, XksError
from xksproxy.spec.messages import ErrorResponse, encode
from xksproxy.spec.messages import Response as Message

PONG: Final = Response(200, b"{}")
"""The answer to GET and HEAD of ``/ping``, which discloses nothing."""


def success(message: Message, *, authenticated: bool = False) -> Response:
    """A 200 with the message as JSON (R-REQ-1)."""
    return Response(200, encode(message), authenticated=authenticated)


def failure(error: XksError, *, authenticated: bool = False) -> Response:
    """The error's status and its JSON body (R-ERR-1, R-ERR-4)."""
    content = encode(ErrorResponse(error_name=error.name, error_message=error.message))
    return Response(error.http_status, content, authenticated=authenticated)


def refusal(error: BadRequest) -> Response:
    """The answer to bytes that are not a readable request (R-ERR-4)."""
    return failure(ValidationException(f"The proxy cannot read this as an HTTP/1.1 request: {error}"))

"""What the checks of `errors` must find."""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect
from stub_proxy.http import Request, Response, json_response
from stub_proxy.world import StubKey
from xksproxy.spec.errors import InternalException, InvalidKeyUsageException, ValidationException

HTML = (("Content-Type", "text/html"),)


def failed(change: Callable[[Request, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Something else in the body of every error."""

    def finish(request: Request, response: Response) -> Response:
        body = json.loads(response.body)
        return response if "errorName" not in body else json_response(response.status, change(request, body))

    return {"finish": finish}


def message(text: Callable[[Request], object]) -> dict[str, Any]:
    return failed(lambda request, body: {**body, "errorMessage": text(request)})


def short_names(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "errorName": body["errorName"].removesuffix("Exception")}


def status_of(name: str, status: int) -> dict[str, Any]:
    def finish(request: Request, response: Response) -> Response:
        return json_response(status, json.loads(response.body)) if name.encode() in response.body else response

    return {"finish": finish}


def quoted_path(request: Request) -> str:
    return f"unknown: {unquote(request.target)}"


def quoted_body(request: Request) -> str:
    """What the parser was given, as the parser's own errors quote it."""
    try:
        return "unexpected: " + json.dumps(json.loads(request.body), ensure_ascii=False)[-400:]
    except ValueError:
        return request.body.decode("utf-8", "replace")


def quoted_algorithm(request: Request) -> str:
    found = re.search(rb'"encryptionAlgorithm": "([^"]*)"', request.body)
    return f"unknown algorithm {found[1].decode() if found else ''}"


def absent_key_is_a_failure(call: Call) -> StubKey:
    key = call.store.key(call.route.key_id)
    if key is None:
        raise InternalException("CKR_KEY_HANDLE_INVALID")
    return key


def disabled_is_a_usage(key: StubKey) -> None:
    if not key.enabled:
        raise InvalidKeyUsageException("not enabled")


def other_operations_are_invalid(call: Call) -> None:
    api.check_metadata(call)
    if call.message["requestMetadata"]["kmsOperation"] == "OperationOfTheFuture":
        raise ValidationException("kmsOperation")


def unnamed_denial(request: Request) -> Response | None:
    return json_response(403, {"errorName": "Forbidden"}) if b"999999999999" in request.body else None


def only_what_the_api_names(call: Call) -> None:
    """As version 1.0.3 has it, without what KMS sent before."""
    api.check_metadata(call)
    if call.message["requestMetadata"]["kmsOperation"] == "DescribeKey":
        raise ValidationException("kmsOperation")


def of_the_framework(concerns: Callable[[Request, Response], object]) -> dict[str, Any]:
    """Some answers are the web framework's own."""

    def finish(request: Request, response: Response) -> Response:
        if concerns(request, response):
            return Response(response.status, HTML, b"<html>whatever</html>")
        return response

    return {"finish": finish}


def known_keys_first(request: Request) -> Response | None:
    """Keys are looked up before the signature is verified."""
    if "/disabled/encrypt" in request.target:
        return json_response(400, {"errorName": "InvalidStateException"})
    return None


def tells_strangers(request: Request, response: Response) -> Response:
    if response.status != 401:
        return response
    return json_response(401, {"errorName": "AuthenticationFailedException", "errorMessage": request.target})


DEFECTS: tuple[Defect, ...] = (
    Defect("short-names", ("error-names", "error-disabled-key", "error-two-faults"), failed(short_names)),
    Defect("not-found-is-400", ("error-names",), status_of("KeyNotFoundException", 400)),
    Defect("state-is-409", ("error-names", "error-disabled-key"), status_of("InvalidStateException", 409)),
    Defect("disabled-keys-serve", ("error-disabled-key", "error-names"), {"check_state": lambda key: None}),
    Defect("disabled-is-a-usage", ("error-disabled-key", "error-names"), {"check_state": disabled_is_a_usage}),
    Defect("other-operations-are-invalid", ("error-denial",), {"check_metadata": other_operations_are_invalid}),
    Defect("only-what-the-api-names", ("error-denial",), {"check_metadata": only_what_the_api_names}),
    Defect("unnamed-denial", ("error-denial",), {"intercept": unnamed_denial}),
    Defect("messages-of-512", ("error-message",), message(lambda request: "x" * 512)),
    Defect("messages-with-line-breaks", ("error-message",), message(lambda request: "two\nlines")),
    Defect("messages-in-german", ("error-message",), message(lambda request: "ung\u00fcltig")),
    Defect("messages-are-objects", ("error-message",), message(lambda request: {"text": "wrong"})),
    Defect("quotes-the-body", ("error-message-values",), message(quoted_body)),
    Defect("quotes-the-algorithm", ("error-message-values",), message(quoted_algorithm)),
    Defect("quotes-the-path", ("error-message-paths",), message(quoted_path)),
    Defect("405-in-html", ("error-json",), of_the_framework(lambda _, response: response.status == 405)),
    Defect("404-in-html", ("error-json",), of_the_framework(lambda _, response: response.status == 404)),
    Defect(
        "gzip-in-html",
        ("error-json",),
        of_the_framework(lambda request, _: request.header("content-encoding") == "gzip"),
    ),
    Defect("json-without-a-name", ("error-json",), failed(lambda request, body: {"message": "wrong"})),
    Defect("known-keys-first", ("error-strangers",), {"intercept": known_keys_first}),
    Defect("tells-strangers", ("error-strangers",), {"finish": tells_strangers}),
    Defect("absent-key-is-a-failure", ("error-two-faults", "error-names"), {"find_key": absent_key_is_a_failure}),
)

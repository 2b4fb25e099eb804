"""What the checks of `encoding` must find."""

import base64
import json
from typing import Any

from stub_proxy import api
from stub_proxy.behaviour import Defect
from stub_proxy.defects.requests import TEXT, refused_above
from stub_proxy.http import Request, Response, json_response
from xksproxy.spec.errors import InternalException, ValidationException


def blanks_and_urls(name: str, text: str) -> bytes:
    return api.decode_base64(name, "".join(text.replace("-", "+").replace("_", "/").split()))


def base64_is_a_failure(name: str, text: str) -> bytes:
    try:
        return api.decode_base64(name, text)
    except ValidationException:
        raise InternalException("binascii.Error") from None


def quoting_base64(name: str, text: str) -> bytes:
    try:
        return api.decode_base64(name, text)
    except ValidationException:
        raise ValidationException(f"{text} is no Base64") from None


def json_is_a_failure(body: bytes) -> dict[str, Any]:
    try:
        return api.decode(body)
    except ValidationException:
        raise InternalException("JSONDecodeError") from None


def first_object(body: bytes) -> dict[str, Any]:
    """What follows the first value is not looked at."""
    try:
        return dict(json.JSONDecoder().raw_decode(body.decode())[0])
    except (ValueError, TypeError):
        raise ValidationException("no JSON") from None


def escapes_are_unknown(request: Request) -> Response | None:
    return json_response(400, {"errorName": "ValidationException"}) if b"\\u" in request.body else None


def joined(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        both = (
            base64.b64decode(found[name]) + base64.b64decode(value) if name == "plaintext" and name in found else None
        )
        found[name] = value if both is None else api.encoded(both)
    return found


def duplicates_are_joined(body: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(body, object_pairs_hook=joined)
    return message


def no_text_is_empty(name: str, value: object) -> str:
    return value if isinstance(value, str) else ""


def latin_1(request: Request, response: Response) -> Response:
    """The framework answers by itself where a body is not UTF-8."""
    try:
        request.body.decode("utf-8")
    except UnicodeDecodeError:
        return Response(400, TEXT, b"UnicodeDecodeError")
    return response


DEFECTS: tuple[Defect, ...] = (
    Defect("413-in-text", ("json-edges",), {"intercept": refused_above(30 * 1024)}),
    Defect("blanks-in-base64", ("base64-strict",), {"decode_base64": blanks_and_urls}),
    Defect("base64-is-a-failure", ("base64-encrypt", "base64-decrypt"), {"decode_base64": base64_is_a_failure}),
    Defect("quotes-what-is-wrong", ("json-no-quotation",), {"decode_base64": quoting_base64}),
    Defect("json-is-a-failure", ("json-invalid", "json-edges"), {"decode": json_is_a_failure}),
    Defect("no-text-is-empty", ("json-types",), {"read_text": no_text_is_empty}),
    Defect("no-escapes", ("json-freedoms",), {"intercept": escapes_are_unknown}),
    Defect("rest-is-ignored", ("json-trailing-bytes",), {"decode": first_object}),
    Defect("not-utf-8-in-text", ("json-edges",), {"finish": latin_1}),
    Defect("duplicates-are-joined", ("json-duplicates",), {"decode": duplicates_are_joined}),
    Defect("501-in-text", ("json-too-large",), {"refuse_http": lambda status: Response(status, TEXT, b"too large")}),
)

"""Checks of responses: success, expected errors, and their members."""

import base64
import binascii
from typing import Any

from xksproxy.spec.errors import XksError
from xksproxy_tools.conformance.http_connection import HttpResponse, NotHttp
from xksproxy_tools.conformance.messages import Sealed
from xksproxy_tools.conformance.outcome import CheckFailed, expect

Body = dict[str, Any]


def expect_success(response: HttpResponse, when: str = "") -> Body:
    """The body of a response with status 200. ``when`` describes the request in failures."""
    expect(response.status == 200, _with_case("status 200", when), response)  # noqa: PLR2004
    return _body(response, "status 200 with a JSON object")


def expect_error(response: HttpResponse, *acceptable: type[XksError], when: str = "") -> Body:
    """The body of an error that has one of the acceptable names, with the status of that name (R-ERR-1)."""
    wanted = " or ".join(f"{error.http_status} {error.__name__}" for error in acceptable)
    body = _body(response, _with_case(wanted, when))
    pairs = {(error.http_status, error.__name__) for error in acceptable}
    expect((response.status, body.get("errorName")) in pairs, _with_case(wanted, when), response)
    return body


def expect_json(response: HttpResponse, when: str = "") -> Body:
    """The body of any response: a JSON object, and for an error one with a name (R-ERR-4)."""
    body = _body(response, _with_case("a JSON object", when))
    named = response.status == 200 or isinstance(body.get("errorName"), str)  # noqa: PLR2004
    expect(named, _with_case("an errorName", when), response)
    return body


def expect_refusal(response: HttpResponse, when: str = "") -> Body:
    """The body of an error about the request: 4xx, or 501 for an unsupported request."""
    wanted = _with_case("an error of 4xx or 501 with an errorName", when)
    body = _body(response, wanted)
    blamed = 400 <= response.status < 500 or response.status == 501  # noqa: PLR2004
    expect(blamed and isinstance(body.get("errorName"), str), wanted, response)
    return body


def text_member(body: Body, name: str) -> str:
    """A member that is a string."""
    value = body.get(name)
    if not isinstance(value, str):
        raise CheckFailed(f"the member {name}, a string", _kind(body, name))
    return value


def bytes_member(body: Body, name: str) -> bytes:
    """A member that is Base64 with padding, in the standard alphabet, decoded (R-REQ-8)."""
    text = text_member(body, name)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CheckFailed(f"Base64 in {name}", f"{len(text)} characters that are not Base64") from None
    expect(base64.b64encode(data).decode() == text, f"canonical Base64 in {name}", "bits after the last byte")
    return data


def sealed_of(body: Body, aad: bytes | None) -> Sealed:
    """The decoded response of Encrypt."""
    return Sealed(
        bytes_member(body, "ciphertext"),
        bytes_member(body, "initializationVector"),
        bytes_member(body, "authenticationTag"),
        bytes_member(body, "ciphertextMetadata") if "ciphertextMetadata" in body else None,
        aad,
        bytes_member(body, "ciphertextDataIntegrityValue") if "ciphertextDataIntegrityValue" in body else None,
    )


def _body(response: HttpResponse, wanted: str) -> Body:
    try:
        return response.json()
    except NotHttp as error:
        raise CheckFailed(wanted, str(error)) from None


def _kind(body: Body, name: str) -> str:
    return f"a {type(body[name]).__name__}" if name in body else f"only {', '.join(sorted(body)) or 'an empty object'}"


def _with_case(wanted: str, when: str) -> str:
    return f"{wanted} ({when})" if when else wanted

"""What the checks of `authentication` must find."""

import re
from dataclasses import replace

from stub_proxy import api
from stub_proxy.behaviour import Defect
from stub_proxy.http import Request, Response, json_response
from stub_proxy.signature import SignatureRules
from xksproxy.spec.errors import AuthenticationFailedException


def signature(**rules: object) -> dict[str, SignatureRules]:
    return {"signature": SignatureRules(**rules)}


def malformed_is_a_bad_request(request: Request, response: Response) -> Response:
    """The web framework parses the header before authentication is asked."""
    well_formed = re.fullmatch("AWS4-HMAC-SHA256 .*Signature=[0-9a-f]{64}", request.header("authorization") or "")
    date = re.fullmatch("[0-9]{8}T[0-9]{6}Z", request.header("x-amz-date") or "")
    if response.status == 401 and not (well_formed and date):
        return json_response(400, {"errorName": "ValidationException"})
    return response


def case_matters(request: Request) -> Response | None:
    """Headers are found as KMS writes them, and not otherwise."""
    return None if "X-Amz-Date" in request.spelling else api.failure(AuthenticationFailedException("no X-Amz-Date"))


def absent_key_first(request: Request) -> Response | None:
    """Keys are looked up before the signature is verified."""
    if "xksproxy-conformance.absent" in request.target:
        return json_response(404, {"errorName": "KeyNotFoundException"})
    return None


FORBIDDEN = {"finish": lambda _, response: replace(response, status=403) if response.status == 401 else response}

DEFECTS: tuple[Defect, ...] = (
    Defect("unsigned-is-served", ("auth-none",), signature(header=False)),
    Defect("unsigned-is-forbidden", ("auth-none", "auth-unknown-id", "auth-wrong-secret"), FORBIDDEN),
    Defect(
        "malformed-is-a-bad-request",
        ("auth-malformed", "auth-malformed-date"),
        {"finish": malformed_is_a_bad_request},
    ),
    Defect("fixed-signed-headers", ("auth-more-headers",), signature(fixed_headers=("host", "x-amz-date"))),
    Defect("header-case-matters", ("auth-header-case",), {"intercept": case_matters}),
    Defect("any-id", ("auth-unknown-id",), signature(known_id=False)),
    Defect(
        "any-signature",
        (
            *("auth-wrong-secret", "auth-crossed-pair", "auth-signature"),
            *("auth-body", "auth-path", "auth-date", "auth-host"),
        ),
        signature(signature=False),
    ),
    Defect("one-credential", ("auth-two-credentials",), signature(first_credential_only=True)),
    Defect("credentials-of-all-stores", ("auth-other-store",), signature(any_store=True)),
    Defect("body-unsigned-on-replay", ("auth-body",), signature(remembers=("target",))),
    Defect("path-unsigned-on-replay", ("auth-path",), signature(remembers=("body",))),
    Defect("signature-remembered", ("auth-date", "auth-scope"), signature(remembers=())),
    Defect("any-time", ("auth-stale", "auth-skew-beyond"), signature(time=False)),
    Defect("fifteen-minutes", ("auth-skew-beyond",), signature(skew_behind=900.0, skew_ahead=900.0)),
    Defect("future-is-fine", ("auth-stale", "auth-skew-beyond"), signature(skew_ahead=1e9)),
    Defect("one-minute", ("auth-skew-within",), signature(skew_behind=60.0, skew_ahead=60.0)),
    Defect("future-is-refused", ("auth-skew-within",), signature(skew_ahead=1.0)),
    Defect("any-service", ("auth-scope-service",), signature(service=False)),
    Defect("any-terminator", ("auth-scope-terminator",), signature(terminator=False)),
    Defect("any-scope-date", ("auth-scope-date",), signature(scope_date=False)),
    Defect("host-may-be-unsigned", ("auth-required-headers",), signature(required=("x-amz-date",))),
    Defect("date-may-be-unsigned", ("auth-required-headers",), signature(required=("host",))),
    Defect("tells-the-cause", ("auth-one-answer",), signature(telling=True)),
    Defect("keys-before-signatures", ("auth-keys-hidden",), {"intercept": absent_key_first}),
)

"""What the checks of `requests` must find."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.defect import Defect
from stub_proxy.http import Request, Response, json_response
from xksproxy.spec.errors import InternalException, ValidationException
from xksproxy.spec.uri import Operation

TEXT = (("Content-Type", "text/plain"),)
KNOWN_METADATA = {*api.REQUIRED_METADATA[Operation.ENCRYPT], *api.OPTIONAL_METADATA}
KNOWN_MEMBERS = {
    *("requestMetadata", "plaintext", "ciphertext", "encryptionAlgorithm", "additionalAuthenticatedData"),
    *("ciphertextMetadata", "initializationVector", "authenticationTag", "ciphertextDataIntegrityValueAlgorithm"),
}


def metadata_must(holds: Callable[[dict[str, Any]], object]) -> dict[str, Callable[[Call], None]]:
    """One more rule for requestMetadata."""

    def check(call: Call) -> None:
        api.check_metadata(call)
        if not holds(call.message["requestMetadata"]):
            raise ValidationException("requestMetadata is not as it is expected")

    return {"check_metadata": check}


def all_match(pattern: str, *names: str) -> dict[str, Callable[[Call], None]]:
    """One more rule for some members, where they are there."""
    return metadata_must(lambda metadata: all(re.fullmatch(pattern, metadata.get(name, "arn:")) for name in names))


def presence_is_enough(call: Call) -> None:
    metadata = call.message.get("requestMetadata")
    if not isinstance(metadata, dict) or set(api.REQUIRED_METADATA[call.route.operation]) - set(metadata):
        raise ValidationException("requestMetadata is missing")


def unknown_members_are_refused(call: Call) -> None:
    if set(call.message) - KNOWN_MEMBERS:
        raise ValidationException("an unknown member")
    api.check_metadata(call)


def exact_content_type(request: Request) -> None:
    if request.header("content-type") != "application/json":
        raise ValidationException("Content-Type")


def errors_in_text(request: Request, response: Response) -> Response:
    return response.with_header("Content-Type", "text/plain") if response.status != 200 else response


def refused_above(limit: int) -> Callable[[Request], Response | None]:
    def intercept(request: Request) -> Response | None:
        return Response(413, TEXT, b"too large") if len(request.body) > limit else None

    return intercept


def lenient_base64(name: str, text: str) -> bytes:
    """Whatever is not of the alphabet is skipped."""
    text = re.sub("[^A-Za-z0-9+/]", "", text.replace("-", "+").replace("_", "/"))
    return base64.b64decode(text + "A" * (-len(text) % 4))


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
    Defect("errors-in-text", ("req-content-type",), {"finish": errors_in_text}),
    Defect("exact-content-type", ("req-content-type-parameters",), {"check_content_type": exact_content_type}),
    Defect("metadata-unread", ("req-metadata-missing", "req-metadata-members"), {"check_metadata": lambda call: None}),
    Defect("metadata-of-any-type", ("req-metadata-types",), {"check_metadata": presence_is_enough}),
    Defect("vpcs-are-unknown", ("req-optional-members",), metadata_must(lambda found: "awsSourceVpc" not in found)),
    Defect("principals-are-arns", ("req-principals",), all_match("arn:.*", "awsPrincipalArn")),
    Defect("key-arns-are-validated", ("req-odd-arns",), all_match("arn:aws:kms:[^:]+:[0-9]+:key/.+|arn:", "kmsKeyArn")),
    Defect("arns-of-1024", ("req-long-arns",), all_match(".{0,1024}", "awsPrincipalArn")),
    Defect("key-arns-of-1024", ("req-long-arns",), all_match(".{0,1024}", "kmsKeyArn")),
    Defect(
        "listed-operations-only",
        ("req-kms-operation",),
        metadata_must(lambda found: found["kmsOperation"] in ("KmsHealthCheck", "CreateKey", "Encrypt", "Decrypt")),
    ),
    Defect("request-ids-are-uuids", ("req-request-id",), all_match("[0-9a-f-]{36}", "kmsRequestId")),
    Defect("strict-metadata", ("req-unknown-metadata",), metadata_must(lambda found: set(found) <= KNOWN_METADATA)),
    Defect("strict-members", ("req-unknown-members",), {"check_metadata": unknown_members_are_refused}),
    Defect("bodies-of-16-kib", ("req-largest",), {"intercept": refused_above(16 * 1024)}),
    Defect("413-in-text", ("req-json-edges",), {"intercept": refused_above(30 * 1024)}),
    Defect("lenient-base64", ("req-not-base64", "req-strict-base64"), {"decode_base64": lenient_base64}),
    Defect("blanks-in-base64", ("req-strict-base64",), {"decode_base64": blanks_and_urls}),
    Defect("base64-is-a-failure", ("req-not-base64", "req-not-base64-decrypt"), {"decode_base64": base64_is_a_failure}),
    Defect("quotes-what-is-wrong", ("req-no-quotation",), {"decode_base64": quoting_base64}),
    Defect("json-is-a-failure", ("req-not-json", "req-json-edges"), {"decode": json_is_a_failure}),
    Defect("no-text-is-empty", ("req-wrong-types",), {"read_text": no_text_is_empty}),
    Defect("no-escapes", ("req-json-freedoms",), {"intercept": escapes_are_unknown}),
    Defect("rest-is-ignored", ("req-trailing-bytes",), {"decode": first_object}),
    Defect("not-utf-8-in-text", ("req-json-edges",), {"finish": latin_1}),
    Defect("duplicates-are-joined", ("req-duplicates",), {"decode": duplicates_are_joined}),
    Defect("501-in-text", ("req-too-large",), {"refuse_http": lambda status: Response(status, TEXT, b"too large")}),
)

"""What the checks of `requests` must find."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect
from stub_proxy.http import Request, Response
from xksproxy.spec.errors import ValidationException
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
    return replace(response, headers=TEXT) if response.status != 200 else response


def refused_above(limit: int) -> Callable[[Request], Response | None]:
    def intercept(request: Request) -> Response | None:
        return Response(413, TEXT, b"too large") if len(request.body) > limit else None

    return intercept


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
)

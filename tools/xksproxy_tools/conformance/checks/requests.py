"""The form of requests and responses, and requestMetadata (R-REQ-*)."""

import json
from typing import Any, Final

from xksproxy.spec.errors import (
    AccessDeniedException,
    ValidationException,
)
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MINIMUM_PLAINTEXT_BYTES
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error, expect_json, expect_success
from xksproxy_tools.conformance.http_connection import HttpResponse
from xksproxy_tools.conformance.messages import Message, decryption, encryption, metadata_only, request_metadata
from xksproxy_tools.conformance.outcome import expect
from xksproxy_tools.conformance.subject import Subject

_HEALTH, _METADATA = Operation.GET_HEALTH_STATUS, Operation.GET_KEY_METADATA
_ENCRYPT, _DECRYPT = Operation.ENCRYPT, Operation.DECRYPT
_REQUIRED: Final = {operation: tuple(request_metadata(operation)) for operation in Operation}
_ARN_CHARACTERS: Final = 2048
_NO_OBJECT: Final[tuple[Any, ...]] = (None, 1, "text", [])
_WRONG_TYPES: Final[tuple[Any, ...]] = (None, 1, True, ["text"], {"text": "text"})


def _whole(subject: Subject, operation: Operation) -> Message:
    """A message that succeeds."""
    match operation:
        case Operation.ENCRYPT:
            return encryption(b"plaintext", b"context")
        case Operation.DECRYPT:
            return decryption(subject.seal(b"plaintext", b"context"))
        case _:
            return metadata_only(operation)


def _with_members(message: Message, **members: Any) -> Message:
    """The message with other members in its requestMetadata."""
    return {**message, "requestMetadata": {**message["requestMetadata"], **members}}


def _accepted_or_denied(response: HttpResponse, when: str) -> str:
    """A success, or a denial by secondary authorization, whose rules the operator chooses."""
    if response.status == AccessDeniedException.http_status:
        expect_error(response, AccessDeniedException, when=when)
        return "AccessDeniedException"
    expect_success(response, when)
    return "200"


def _seen(codes: set[str]) -> str:
    return f"answered {' and '.join(sorted(codes))}"


# --- Content types


def _content_types(subject: Subject) -> None:
    responses = {f"{one.value}, a success": subject.call(one, _whole(subject, one)) for one in Operation}
    unsigned = subject.request(subject.path(_HEALTH), metadata_only(_HEALTH))
    responses["a ValidationException"] = subject.call(_HEALTH, {})
    responses["an AuthenticationFailedException"] = subject.send(unsigned)
    responses["a KeyNotFoundException"] = subject.call(_METADATA, metadata_only(_METADATA), subject.keys.absent)
    invalid = subject.request(f"{subject.path(_HEALTH)}/invalid", metadata_only(_HEALTH))
    responses["an InvalidUriPathException"] = subject.send(subject.sign(invalid))
    for what, response in responses.items():
        media_type = (response.header("content-type") or "").partition(";")[0].strip().lower()
        expect(media_type == "application/json", f"Content-Type: application/json of {what}", media_type or "none")
        expect_json(response, what)


def _content_type_parameters(subject: Subject) -> None:
    request = subject.request(subject.path(_HEALTH), metadata_only(_HEALTH))
    for value in ("application/json; charset=utf-8", "Application/JSON"):
        response = subject.send(subject.sign(request.with_header("Content-Type", value)))
        expect_success(response, f"Content-Type: {value}")


# --- requestMetadata


def _metadata_missing(subject: Subject) -> None:
    for operation in Operation:
        message = _whole(subject, operation)
        rest = {name: value for name, value in message.items() if name != "requestMetadata"}
        for what, broken in (("no", rest), ("an empty", {**rest, "requestMetadata": {}})):
            response = subject.call(operation, broken)
            expect_error(response, ValidationException, when=f"{what} requestMetadata, {operation.value}")
    for operation in (_HEALTH, _METADATA):
        expect_error(subject.call(operation, {}), ValidationException, when=f"an empty object, {operation.value}")


def _metadata_members(subject: Subject) -> None:
    for operation in Operation:
        message = _whole(subject, operation)
        for name in _REQUIRED[operation]:
            members = {key: value for key, value in message["requestMetadata"].items() if key != name}
            response = subject.call(operation, {**message, "requestMetadata": members})
            expect_error(response, ValidationException, when=f"no {name}, {operation.value}")


def _metadata_types(subject: Subject) -> None:
    for value in _NO_OBJECT:
        response = subject.call(_METADATA, {"requestMetadata": value})
        expect_error(response, ValidationException, when=f"requestMetadata {json.dumps(value)}")
    for name in _REQUIRED[_METADATA]:
        for value in _WRONG_TYPES:
            response = subject.call(_METADATA, _with_members(metadata_only(_METADATA), **{name: value}))
            expect_error(response, ValidationException, when=f"{name} {json.dumps(value)}")


def _optional_members(subject: Subject) -> str:
    members = {"awsSourceVpc": "vpc-1234567890abcdef0", "awsSourceVpce": "vpce-1234567890abcdef0"}
    seen = set()
    for operation in (_METADATA, _ENCRYPT, _DECRYPT):
        more = members if operation is _METADATA else {**members, "kmsViaService": "ebs"}
        response = subject.call(operation, _with_members(_whole(subject, operation), **more))
        seen.add(_accepted_or_denied(response, f"{', '.join(more)}, {operation.value}"))
    return _seen(seen)


def _principals(subject: Subject) -> str:
    """Principals of KMS that are not ARNs."""
    seen = set()
    for principal in ("ec2.amazonaws.com", "AWS Internal", "arn:aws:sts::123456789012:assumed-role/a/b@example.com"):
        for operation in (_METADATA, _ENCRYPT, _DECRYPT):
            message = _with_members(_whole(subject, operation), awsPrincipalArn=principal)
            seen.add(_accepted_or_denied(subject.call(operation, message), f"{principal}, {operation.value}"))
    return _seen(seen)


def _odd_arns(subject: Subject) -> str:
    """Examples of AWS have a key ARN with an extra colon."""
    seen = set()
    for arn in ("arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab", "arn", ""):
        message = _with_members(_whole(subject, _ENCRYPT), kmsKeyArn=arn)
        seen.add(_accepted_or_denied(subject.call(_ENCRYPT, message), f"kmsKeyArn {arn!r}"))
    return _seen(seen)


def _long_arns(subject: Subject) -> str:
    principal = f"arn:aws:iam::123456789012:role/{'a' * _ARN_CHARACTERS}"[:_ARN_CHARACTERS]
    key = f"arn:aws:kms:us-east-1:123456789012:key/{'a' * _ARN_CHARACTERS}"[:_ARN_CHARACTERS]
    seen = set()
    for operation in (_METADATA, _ENCRYPT, _DECRYPT):
        message = _with_members(_whole(subject, operation), awsPrincipalArn=principal, kmsKeyArn=key)
        seen.add(_accepted_or_denied(subject.call(operation, message), f"two ARNs of 2048, {operation.value}"))
    return _seen(seen)


def _unlisted_operation(subject: Subject) -> str:
    seen = set()
    for operation in Operation:
        message = _with_members(_whole(subject, operation), kmsOperation="OperationOfTheFuture")
        response = subject.call(operation, message)
        seen.add(_accepted_or_denied(response, f"an unlisted kmsOperation, {operation.value}"))
    return _seen(seen)


def _request_ids(subject: Subject) -> None:
    for operation in Operation:
        message = _whole(subject, operation)
        for request_id in ("0", "no-uuid", "{not} a <uuid>", "a" * 300, "\u00fcber"):
            response = subject.call(operation, _with_members(message, kmsRequestId=request_id))
            expect_success(response, f"kmsRequestId {request_id[:20]!r}, {operation.value}")


def _unknown_metadata_members(subject: Subject) -> str:
    """Members that the specification announces, and those that the public test client sends to GetKeyMetadata."""
    announced = {"SourceIdentity": "a", "kmsRecipientAttestationImageSha384": "b", "tags": [{"key": "c"}], "nested": {}}
    seen = set()
    for operation in Operation:
        message = _with_members(_whole(subject, operation), **announced)
        seen.add(_accepted_or_denied(subject.call(operation, message), f"unknown members, {operation.value}"))
    message = _with_members(metadata_only(_METADATA), kmsKeyArn="arn:aws:kms:us-east-1:1:key/a", kmsViaService="ebs")
    seen.add(_accepted_or_denied(subject.call(_METADATA, message), "kmsKeyArn and kmsViaService, metadata"))
    return _seen(seen)


def _unknown_members(subject: Subject) -> None:
    for operation in Operation:
        message = {**_whole(subject, operation), "memberOfTheFuture": {"a": [1, None, "b"]}}
        expect_success(subject.call(operation, message), f"an unknown member beside requestMetadata, {operation.value}")


def _largest(subject: Subject) -> str:
    message = encryption(bytes(MINIMUM_PLAINTEXT_BYTES), bytes(MAXIMUM_AAD_BYTES), cdiv=True)
    message = _with_members(message, awsPrincipalArn="a" * _ARN_CHARACTERS, kmsKeyArn="a" * _ARN_CHARACTERS)
    body = json.dumps(message).encode()
    return f"{len(body)} bytes, {_seen({_accepted_or_denied(subject.call(_ENCRYPT, body), 'the largest request')})}"


CHECKS: Final[tuple[Check, ...]] = (
    Check("req-content-type", ("R-REQ-1",), Level.MUST, "All responses are JSON with its Content-Type", _content_types),
    Check(
        "req-content-type-parameters",
        ("R-REQ-1",),
        Level.SHOULD,
        "Content-Type is read as a media type",
        _content_type_parameters,
    ),
    Check("req-metadata-missing", ("R-REQ-2",), Level.MUST, "requestMetadata is required", _metadata_missing),
    Check("req-metadata-members", ("R-REQ-2",), Level.MUST, "Its required members are checked", _metadata_members),
    Check("req-metadata-types", ("R-REQ-6",), Level.SHOULD, "Its members must be strings", _metadata_types),
    Check("req-optional-members", ("R-REQ-2",), Level.MUST, "Its optional members are accepted", _optional_members),
    Check("req-principals", ("R-REQ-6",), Level.MUST, "A caller need not have an ARN", _principals),
    Check("req-odd-arns", ("R-REQ-6",), Level.SHOULD, "The form of an ARN is not validated", _odd_arns),
    Check("req-long-arns", ("R-REQ-3",), Level.MUST, "ARNs may have 2048 characters", _long_arns),
    Check("req-kms-operation", ("R-REQ-4",), Level.MUST, "kmsOperation may be unlisted", _unlisted_operation),
    Check("req-request-id", ("R-REQ-5",), Level.MUST, "kmsRequestId is opaque", _request_ids),
    Check(
        "req-unknown-metadata",
        ("R-REQ-7",),
        Level.MUST,
        "Unknown members of requestMetadata are accepted",
        _unknown_metadata_members,
    ),
    Check("req-unknown-members", ("R-REQ-7",), Level.SHOULD, "Unknown members beside it too", _unknown_members),
    Check("req-largest", ("R-REQ-10",), Level.SHOULD, "The largest legal request is accepted", _largest),
)

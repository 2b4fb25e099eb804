"""The form of requests and responses, and requestMetadata (R-REQ-*)."""

import json
from collections.abc import Iterator
from typing import Any, Final

from xksproxy.prove.conformance.answers import expect_error, expect_json, expect_success
from xksproxy.prove.conformance.check import Check, Level, expect
from xksproxy.prove.conformance.messages import Message, bare, decryption, encoded, encryption, request_metadata
from xksproxy.prove.conformance.subject import Subject
from xksproxy.prove.conformance.wire import ConnectionEnded, HttpResponse
from xksproxy.spec.errors import (
    AccessDeniedException,
    InvalidCiphertextException,
    ValidationException,
)
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MINIMUM_PLAINTEXT_BYTES
from xksproxy.spec.uri import Operation

_HEALTH, _METADATA = Operation.GET_HEALTH_STATUS, Operation.GET_KEY_METADATA
_ENCRYPT, _DECRYPT = Operation.ENCRYPT, Operation.DECRYPT
_REQUIRED: Final = {operation: tuple(request_metadata(operation)) for operation in Operation}
_ARN_CHARACTERS: Final = 2048
_DEEP: Final = 20_000
_MEBIBYTE: Final = 1 << 20
_ONE, _OTHER = b"one", b"quite another"
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
            return bare(operation)


def _with_members(message: Message, **members: Any) -> Message:
    """The message with other members in its requestMetadata."""
    return {**message, "requestMetadata": {**message["requestMetadata"], **members}}


def _accepted_or_denied(response: HttpResponse, when: str) -> str:
    """A success, or a denial by secondary authorization: which callers it admits is the operator's choice."""
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
    unsigned = subject.request(subject.path(_HEALTH), bare(_HEALTH))
    responses["a ValidationException"] = subject.call(_HEALTH, {})
    responses["an AuthenticationFailedException"] = subject.send(unsigned)
    responses["a KeyNotFoundException"] = subject.call(_METADATA, bare(_METADATA), subject.keys.absent)
    invalid = subject.request(f"{subject.path(_HEALTH)}/invalid", bare(_HEALTH))
    responses["an InvalidUriPathException"] = subject.send(subject.sign(invalid))
    for what, response in responses.items():
        media_type = (response.header("content-type") or "").partition(";")[0].strip().lower()
        expect(media_type == "application/json", f"Content-Type: application/json of {what}", media_type or "none")
        expect_json(response, what)


def _content_type_parameters(subject: Subject) -> None:
    request = subject.request(subject.path(_HEALTH), bare(_HEALTH))
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
            response = subject.call(_METADATA, _with_members(bare(_METADATA), **{name: value}))
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
    """What KMS sends besides ARNs."""
    seen = set()
    for principal in ("ec2.amazonaws.com", "AWS Internal", "arn:aws:sts::123456789012:assumed-role/a/b@example.com"):
        for operation in (_METADATA, _ENCRYPT, _DECRYPT):
            message = _with_members(_whole(subject, operation), awsPrincipalArn=principal)
            seen.add(_accepted_or_denied(subject.call(operation, message), f"{principal}, {operation.value}"))
    return _seen(seen)


def _odd_arns(subject: Subject) -> str:
    """AWS's own examples have a key ARN with a colon too many."""
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
    """What the specification foresees, and what the public test client sends to GetKeyMetadata."""
    announced = {"SourceIdentity": "a", "kmsRecipientAttestationImageSha384": "b", "tags": [{"key": "c"}], "nested": {}}
    seen = set()
    for operation in Operation:
        message = _with_members(_whole(subject, operation), **announced)
        seen.add(_accepted_or_denied(subject.call(operation, message), f"unknown members, {operation.value}"))
    message = _with_members(bare(_METADATA), kmsKeyArn="arn:aws:kms:us-east-1:1:key/a", kmsViaService="ebs")
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


# --- Base64


def _not_base64(subject: Subject) -> None:
    for text in ("!!!!", "AA=A", "A", "äöü", "AAA{"):
        for name in ("plaintext", "additionalAuthenticatedData"):
            response = subject.call(_ENCRYPT, {**_whole(subject, _ENCRYPT), name: text})
            expect_error(response, ValidationException, when=f"{name} {text!r}")


def _not_base64_to_decrypt(subject: Subject) -> str:
    """The catalogue leaves open which of two errors it is (Q-3)."""
    message = _whole(subject, _DECRYPT)
    seen = set()
    for name in ("ciphertext", "initializationVector", "authenticationTag", "additionalAuthenticatedData"):
        response = subject.call(_DECRYPT, {**message, name: "!!!!"})
        body = expect_error(response, ValidationException, InvalidCiphertextException, when=f"{name} '!!!!'")
        seen.add(body["errorName"])
    return _seen(seen)


def _strict_base64(subject: Subject) -> None:
    variants = {
        "the alphabet for URLs": encoded(b"\xfb\xff\xfe").replace("+", "-").replace("/", "_"),
        "no padding": "QQ",
        "a line break": "AAAA\nAAAA",
        "a blank": "AAAA AAAA",
        "a blank at the end": "AAAA ",
        "padding that is too much": "AAAA====",
    }
    for what, text in variants.items():
        response = subject.call(_ENCRYPT, {**_whole(subject, _ENCRYPT), "plaintext": text})
        expect_error(response, ValidationException, when=f"plaintext with {what}")


# --- JSON


def _not_json(subject: Subject) -> None:
    for body in (b"", b"nonsense", b'{"requestMetadata":', b"[]", b'"text"', b"1", b"null", b"{'requestMetadata': {}}"):
        for operation in (_HEALTH, _ENCRYPT):
            response = subject.call(operation, body)
            expect_error(response, ValidationException, when=f"the body {body.decode()!r}, {operation.value}")


def _wrong_types(subject: Subject) -> None:
    message = _whole(subject, _ENCRYPT)
    for name in ("plaintext", "encryptionAlgorithm"):
        for value in _WRONG_TYPES:
            response = subject.call(_ENCRYPT, {**message, name: value})
            expect_error(response, ValidationException, when=f"{name} {json.dumps(value)}")
    for name in ("plaintext", "encryptionAlgorithm"):
        response = subject.call(_ENCRYPT, {key: value for key, value in message.items() if key != name})
        expect_error(response, ValidationException, when=f"no {name}")


def _json_freedoms(subject: Subject) -> None:
    """What any JSON parser reads alike: blanks, line breaks, order, and escapes in names and values."""
    message = _whole(subject, _ENCRYPT)
    indented = json.dumps(dict(reversed(message.items())), indent=4).replace("\n", "\r\n").encode()
    expect_success(subject.call(_ENCRYPT, indented), "indented, members in another order")
    escaped = json.dumps(message).replace('"plaintext"', '"\\u0070laintext"').replace("AES_GCM", "AES\\u005fGCM")
    expect_success(subject.call(_ENCRYPT, escaped.encode()), "with escapes")


def _trailing_bytes(subject: Subject) -> None:
    body = json.dumps(bare(_HEALTH)).encode()
    for rest in (b"x", b"{}", b"\0", b","):
        expect_error(subject.call(_HEALTH, body + rest), ValidationException, when=f"JSON, and then {rest!r}")


def _edges() -> Iterator[tuple[str, bytes]]:
    """Where parsers differ, so any answer will do that is JSON."""
    whole = json.dumps(bare(_HEALTH)).encode()
    yield "bytes that are not UTF-8", whole.replace(b"KmsHealthCheck", b"\xff\xfe\xc0\x80")
    yield "a byte order mark", b"\xef\xbb\xbf" + whole
    yield "UTF-16", whole.decode().encode("utf-16")
    yield "half a surrogate pair", whole.replace(b"KmsHealthCheck", b"\\ud800")
    yield "20000 arrays in one another", whole[:-1] + b',"a":' + b"[" * _DEEP + b"]" * _DEEP + b"}"
    yield "a number of 400 digits", whole[:-1] + b',"a":' + b"9" * 400 + b"}"
    yield "NaN", whole[:-1] + b',"a":NaN}'
    yield "a control character", whole.replace(b"KmsHealthCheck", b"\x01")


def _json_edges(subject: Subject) -> str:
    notes = []
    for what, body in _edges():
        response = subject.call(_HEALTH, body)
        expect_json(response, what)
        expect(response.status < 500 or response.status == 501, f"no failure at {what}", response)  # noqa: PLR2004
        notes.append(f"{what}: {response.status}")
    expect_success(subject.call(_HEALTH, bare(_HEALTH)), "after them all")
    return ", ".join(notes)


def _too_large(subject: Subject) -> str:
    """Far beyond what KMS could send. A proxy that will not read it may also end the connection."""
    body = json.dumps({**bare(_HEALTH), "a": "a" * _MEBIBYTE}).encode()
    try:
        response = subject.call(_HEALTH, body)
    except ConnectionEnded as error:
        return str(error)
    expect_json(response, "1 MiB")
    return f"answered {response.status}"


def _duplicate_members(subject: Subject) -> str:
    """RFC 8259 leaves their meaning open: refused, or one of them counts, but nothing else."""
    whole = json.dumps(encryption(_ONE)).encode()
    doubled = whole[:-1] + b',"plaintext":"' + encoded(_OTHER).encode() + b'"}'
    response = subject.call(_ENCRYPT, doubled)
    if response.status == ValidationException.http_status:
        expect_error(response, ValidationException, when="plaintext twice")
        return "refused"
    body = expect_success(response, "plaintext twice")
    lengths = {len(encoded(_ONE)): "the first", len(encoded(_OTHER)): "the last"}
    length = len(str(body.get("ciphertext")))
    expect(length in lengths, "one of two plaintexts to be encrypted", f"{length} characters of ciphertext")
    return f"{lengths[length]} counts"


def _errors_tell_nothing(subject: Subject) -> None:
    """What is wrong is named; the value may be a secret."""
    secret = "c2VjcmV0LW9mLWEtY2FsbGVy!"  # noqa: S105 - made up
    response = subject.call(_ENCRYPT, {**_whole(subject, _ENCRYPT), "plaintext": secret})
    expect_error(response, ValidationException, when="a plaintext that is no Base64")
    expect(secret[:12].encode() not in response.content, "no quotation of the plaintext", "an error that quotes it")


CHECKS: Final[tuple[Check, ...]] = (
    Check("req-content-type", ("R-REQ-1",), Level.MUST, "All answers are JSON, and say so", _content_types),
    Check(
        "req-content-type-parameters",
        ("R-REQ-1",),
        Level.SHOULD,
        "Content-Type is read as a media type",
        _content_type_parameters,
    ),
    Check("req-metadata-missing", ("R-REQ-2",), Level.MUST, "requestMetadata is demanded", _metadata_missing),
    Check("req-metadata-members", ("R-REQ-2",), Level.MUST, "Its required members are demanded", _metadata_members),
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
    Check("req-not-base64", ("R-REQ-8",), Level.MUST, "Encrypt refuses what is not Base64", _not_base64),
    Check("req-not-base64-decrypt", ("R-REQ-8",), Level.MUST, "Decrypt refuses it too", _not_base64_to_decrypt),
    Check("req-strict-base64", ("R-REQ-8",), Level.SHOULD, "Only standard, padded Base64 is accepted", _strict_base64),
    Check("req-not-json", ("R-REQ-1",), Level.MUST, "What is no JSON object is refused", _not_json),
    Check("req-wrong-types", ("R-REQ-1",), Level.MUST, "A member of a wrong type is refused", _wrong_types),
    Check("req-json-freedoms", ("R-REQ-1",), Level.MUST, "JSON may be written in any way", _json_freedoms),
    Check("req-trailing-bytes", ("R-REQ-1",), Level.SHOULD, "Nothing may follow the JSON", _trailing_bytes),
    Check("req-json-edges", ("R-ERR-4",), Level.SHOULD, "Where JSON gets odd, the answer is JSON", _json_edges),
    Check("req-too-large", ("R-ERR-4",), Level.SHOULD, "A body of 1 MiB is answered in JSON", _too_large),
    Check("req-duplicates", ("R-REQ-1",), Level.SHOULD, "A member given twice has one meaning", _duplicate_members),
    Check("req-no-quotation", ("R-ERR-3",), Level.SHOULD, "Errors do not quote a plaintext", _errors_tell_nothing),
)

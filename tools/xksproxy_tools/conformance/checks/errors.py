"""Errors: their names, their form, and their precedence (R-ERR-*, R-AUTHZ-4)."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from xksproxy.spec.errors import (
    AccessDeniedException,
    AuthenticationFailedException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    InvalidStateException,
    InvalidUriPathException,
    KeyNotFoundException,
    UnsupportedOperationException,
    ValidationException,
    XksError,
)
from xksproxy.spec.limits import MAXIMUM_ERROR_MESSAGE_CHARACTERS
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import Body, expect_error, expect_json, expect_success
from xksproxy_tools.conformance.http_connection import HttpResponse, NotHttp
from xksproxy_tools.conformance.messages import (
    Message,
    Sealed,
    decryption,
    encryption,
    metadata_only,
    request_metadata,
)
from xksproxy_tools.conformance.outcome import CheckFailed, expect, required
from xksproxy_tools.conformance.samples import sample
from xksproxy_tools.conformance.subject import Subject

_HEALTH, _METADATA = Operation.GET_HEALTH_STATUS, Operation.GET_KEY_METADATA
_ENCRYPT, _DECRYPT = Operation.ENCRYPT, Operation.DECRYPT
_WITH_KEYS: Final = (_METADATA, _ENCRYPT, _DECRYPT)
_NOT_ALLOWED: Final = 405
_PRINTABLE: Final = frozenset(map(chr, range(0x20, 0x7F)))
_STRANGE: Final = "\u00fc\n\t\u2028<script>\U0001f511\x7f\0"
_OPERATIONS_OF_KMS: Final = {
    _METADATA: ("CreateKey", "DescribeKey"),
    _ENCRYPT: ("Encrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
    _DECRYPT: ("Decrypt", "ReEncrypt"),
}
_UNLISTED: Final = ("OperationOfTheFuture", "encrypt")


@dataclass(frozen=True, slots=True)
class Provoked:
    """The response to an invalid request, and the errors that are allowed."""

    what: str
    response: HttpResponse
    errors: tuple[type[XksError], ...]


def _message(operation: Operation) -> Message:
    """A valid message."""
    match operation:
        case Operation.ENCRYPT:
            return encryption(b"plaintext")
        case Operation.DECRYPT:
            return decryption(Sealed(sample(16), iv=bytes(12), tag=bytes(16)))
        case _:
            return metadata_only(operation)


def _provoke_all(subject: Subject) -> Iterator[Provoked]:
    """Provoke every error that depends on the request only."""
    for operation in Operation:
        name, path, message = operation.value, subject.path(operation), _message(operation)
        unsigned = subject.send(subject.request(path, message))
        yield Provoked(f"unsigned {name}", unsigned, (AuthenticationFailedException,))
        yield Provoked(f"{name} with an empty object", subject.call(operation, {}), (ValidationException,))
        yield Provoked(f"{name} with half an object", subject.call(operation, b'{"requestMeta'), (ValidationException,))
        elsewhere = subject.sign(subject.request(f"{path}/invalid", message))
        yield Provoked(f"{name} at an invalid path", subject.send(elsewhere), (InvalidUriPathException,))
    for operation in _WITH_KEYS:
        response = subject.call(operation, _message(operation), subject.keys.absent)
        yield Provoked(f"{operation.value} of an absent key", response, (KeyNotFoundException,))
    tampered = replace(subject.seal(b"plaintext"), tag=bytes(16))
    yield Provoked("decrypt with another tag", subject.decrypt(tampered), (InvalidCiphertextException,))
    yield from _provoke_by_keys(subject)


def _provoke_by_keys(subject: Subject) -> Iterator[Provoked]:
    """Provoke errors that need optional keys."""
    keys = subject.keys
    incapable = ((_DECRYPT, keys.encrypt_only), (_ENCRYPT, keys.decrypt_only), (_ENCRYPT, keys.impotent))
    for operation, key in incapable:
        if key is not None:
            response = subject.call(operation, _message(operation), key)
            yield Provoked(f"{operation.value} with {key}", response, (InvalidKeyUsageException,))
    if keys.disabled is not None:
        response = subject.encrypt(b"plaintext", key_id=keys.disabled)
        yield Provoked(f"encrypt with {keys.disabled}", response, (InvalidStateException,))


# --- Names


def _names(subject: Subject) -> str:
    seen = set()
    for provoked in _provoke_all(subject):
        body = expect_error(provoked.response, *provoked.errors, when=provoked.what)
        seen.add(body["errorName"])
    return f"{len(seen)} of them"


def _disabled_key(subject: Subject) -> None:
    key = required(subject.keys.disabled, "--disabled-key")
    for operation in (_ENCRYPT, _DECRYPT):
        response = subject.call(operation, _message(operation), key)
        expect_error(response, InvalidStateException, when=f"{operation.value} with the disabled {key}")


def _denials(subject: Subject) -> str:
    """The operator chooses which callers and operations are denied. The error is always the same."""
    seen = set()
    sealed = decryption(subject.seal(b"plaintext"))
    for operation in _WITH_KEYS:
        message = sealed if operation is _DECRYPT else _message(operation)
        for kms_operation in (*_OPERATIONS_OF_KMS[operation], *_UNLISTED):
            for principal in ("arn:aws:iam::123456789012:user/conformance", "arn:aws:iam::999999999999:root"):
                members = {"kmsOperation": kms_operation, "awsPrincipalArn": principal}
                metadata = {**request_metadata(operation), **members}
                response = subject.call(operation, {**message, "requestMetadata": metadata})
                seen.add(_success_or_denial(response, f"{operation.value} for {kms_operation!r} of {principal}"))
    return f"answered {' and '.join(sorted(seen))}"


def _success_or_denial(response: HttpResponse, when: str) -> str:
    if response.status == AccessDeniedException.http_status:
        return str(expect_error(response, AccessDeniedException, when=when)["errorName"])
    expect_success(response, f"or 403 AccessDeniedException, {when}")
    return "200"


# --- Form


def _check_error_message(body: Body, when: str) -> None:
    """R-ERR-2; the message may be missing."""
    if "errorMessage" not in body:
        return
    message = body["errorMessage"]
    expect(isinstance(message, str), f"an errorMessage that is a string ({when})", type(message).__name__)
    limit = MAXIMUM_ERROR_MESSAGE_CHARACTERS
    expect(len(message) <= limit, f"an errorMessage of at most {limit} characters ({when})", len(message))
    strange = sorted(set(message) - _PRINTABLE)
    expect(not strange, f"an errorMessage of the bytes 0x20 to 0x7e ({when})", f"{strange!a}")


def _messages(subject: Subject) -> None:
    for provoked in _provoke_all(subject):
        _check_error_message(expect_json(provoked.response, provoked.what), provoked.what)


def _long_and_strange(subject: Subject, text: str) -> Iterator[tuple[str, HttpResponse]]:
    """Send a text in every place that an error might quote."""
    whole = encryption(b"plaintext")
    yield "in encryptionAlgorithm", subject.call(_ENCRYPT, {**whole, "encryptionAlgorithm": text})
    yield "in plaintext", subject.call(_ENCRYPT, {**whole, "plaintext": text})
    hashed = {**whole, "ciphertextDataIntegrityValueAlgorithm": text}
    yield "in ciphertextDataIntegrityValueAlgorithm", subject.call(_ENCRYPT, hashed)
    metadata = {**request_metadata(_ENCRYPT), "kmsRequestId": text, "kmsOperation": text, "awsPrincipalArn": text}
    absent = subject.call(_ENCRYPT, {**whole, "requestMetadata": metadata}, subject.keys.absent)
    yield "in requestMetadata", absent
    yield "in place of JSON", subject.call(_ENCRYPT, text.encode())
    yield "in place of requestMetadata", subject.call(_METADATA, {"requestMetadata": text})
    yield "as a member's name", subject.call(_METADATA, {text: {}})


def _quoting_messages(subject: Subject) -> None:
    for what, text in (("2000 characters", "x" * 2000), ("what is not printable", _STRANGE)):
        for place, response in _long_and_strange(subject, text):
            _check_error_message(expect_json(response, f"{what} {place}"), f"{what} {place}")


def _quoting_paths(subject: Subject) -> None:
    base = subject.path(_HEALTH).removesuffix("/health")
    for path in (f"{base}/{'x' * 200}", f"{base}/keys/{'k' * 128}/unknown", f"{base}/%0d%0a%c3%bc"):
        response = subject.send(subject.sign(subject.request(path, metadata_only(_METADATA))))
        with suppress(NotHttp):  # other checks verify that it is JSON
            _check_error_message(response.json(), path)


def _outside_the_api(subject: Subject) -> Iterator[tuple[str, HttpResponse]]:
    """Requests that a web framework may answer before the proxy does."""
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        for operation in Operation:
            request = replace(subject.request(subject.path(operation), metadata_only(operation)), method=method)
            yield f"{method} of {operation.value}", subject.send(subject.sign(request))
    for path in ("/conformance/nowhere", f"{subject.path(_HEALTH)}/", f"{subject.path(_HEALTH)}?a=b"):
        request = subject.request(path, metadata_only(_HEALTH))
        yield f"POST to {path}", subject.send(subject.sign(request))
        yield f"unsigned POST to {path}", subject.send(request)
    request = subject.request(subject.path(_HEALTH), metadata_only(_HEALTH))
    yield "text/plain", subject.send(subject.sign(request.with_header("Content-Type", "text/plain")))
    yield "no Content-Type", subject.send(subject.sign(request.without_header("Content-Type")))
    yield "a body that is gzip", subject.send(subject.sign(request.with_header("Content-Encoding", "gzip")))
    empty = replace(request, body=b"").without_header("Content-Length")
    yield "no body", subject.send(subject.sign(empty))


def _json_everywhere(subject: Subject) -> None:
    for what, response in _outside_the_api(subject):
        media_type = (response.header("content-type") or "").partition(";")[0].strip().lower()
        expect(media_type == "application/json", f"Content-Type: application/json ({what})", media_type or "none")
        body = _named_body(response, what)
        _check_error_message(body, what)


def _named_body(response: HttpResponse, what: str) -> Body:
    """The error name of a 405 is not defined (R-URI-5), so it may be missing."""
    if response.status != _NOT_ALLOWED:
        return expect_json(response, what)
    try:
        return response.json()
    except NotHttp as error:
        raise CheckFailed(f"a JSON object ({what})", str(error)) from None


# --- Which comes first


def _unauthenticated_callers(subject: Subject) -> None:
    """Without a valid signature, the response is the same for every key."""
    keys = subject.keys
    known = (keys.usable, keys.absent, keys.encrypt_only, keys.decrypt_only, keys.impotent, keys.disabled)
    for operation in _WITH_KEYS:
        answers = {}
        for key in filter(None, known):
            response = subject.send(subject.request(subject.path(operation, key), _message(operation)))
            body = expect_error(response, AuthenticationFailedException, when=f"unsigned {operation.value} of {key}")
            answers[key] = str(body.get("errorMessage"))
        expect(len(set(answers.values())) == 1, f"one answer for every key, {operation.value}", answers)


def _provoke_by_two_faults(subject: Subject) -> Iterator[Provoked]:
    """Requests for a missing key or without a signature that have a second fault."""
    absent, stranger = subject.keys.absent, subject.request(subject.path(_ENCRYPT), b"{")
    half = {name: value for name, value in encryption(b"plaintext").items() if name != "plaintext"}
    yield Provoked(
        "no plaintext, absent key",
        subject.call(_ENCRYPT, half, absent),
        (ValidationException, KeyNotFoundException),
    )
    other = {**encryption(b"plaintext"), "encryptionAlgorithm": "AES_CBC"}
    yield Provoked(
        "another algorithm, absent key",
        subject.call(_ENCRYPT, other, absent),
        (ValidationException, UnsupportedOperationException, KeyNotFoundException),
    )
    short = decryption(Sealed(b"ciphertext", iv=b"short", tag=b"short"))
    yield Provoked(
        "IV and tag too short, absent key",
        subject.call(_DECRYPT, short, absent),
        (ValidationException, InvalidCiphertextException, KeyNotFoundException),
    )
    yield Provoked(
        "half an object, unsigned", subject.send(stranger), (AuthenticationFailedException, ValidationException)
    )
    yield Provoked(
        "an invalid path, unsigned",
        subject.send(replace(stranger, target=f"{stranger.target}/invalid")),
        (AuthenticationFailedException, InvalidUriPathException),
    )


def _two_faults(subject: Subject) -> None:
    """The order is not defined (Q-2), so both errors are allowed, but no other."""
    for provoked in _provoke_by_two_faults(subject):
        expect_error(provoked.response, *provoked.errors, when=provoked.what)


CHECKS: Final[tuple[Check, ...]] = (
    Check("error-names", ("R-ERR-1",), Level.MUST, "Each error has its name and its status", _names),
    Check("error-disabled-key", ("R-ERR-1",), Level.MUST, "A disabled key does no cryptography", _disabled_key),
    Check("error-denial", ("R-AUTHZ-4",), Level.MUST, "A denial is not a validation error", _denials),
    Check("error-message", ("R-ERR-2",), Level.MUST, "errorMessage is short and printable", _messages),
    Check(
        "error-message-values",
        ("R-ERR-2",),
        Level.MUST,
        "errorMessage is so for any content of a request",
        _quoting_messages,
    ),
    Check("error-message-paths", ("R-ERR-2",), Level.MUST, "errorMessage is so for any path", _quoting_paths),
    Check("error-json", ("R-ERR-4",), Level.SHOULD, "Outside the API, errors are JSON too", _json_everywhere),
    Check(
        "error-strangers",
        ("R-AUTH-13",),
        Level.SHOULD,
        "Without a signature, the response is the same for every key",
        _unauthenticated_callers,
    ),
    Check("error-two-faults", ("R-ERR-1",), Level.MUST, "Of two faults, one is reported", _two_faults),
)

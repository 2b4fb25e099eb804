"""Invalid Base64 and JSON (R-REQ-1, R-REQ-8)."""

import json
from collections.abc import Iterator
from typing import Any, Final

from xksproxy.spec.errors import InvalidCiphertextException, ValidationException
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error, expect_json, expect_success
from xksproxy_tools.conformance.http_connection import ConnectionEnded
from xksproxy_tools.conformance.messages import Message, decryption, encoded, encryption, metadata_only
from xksproxy_tools.conformance.outcome import expect
from xksproxy_tools.conformance.subject import Subject

_HEALTH, _ENCRYPT, _DECRYPT = Operation.GET_HEALTH_STATUS, Operation.ENCRYPT, Operation.DECRYPT
_DEEP: Final = 20_000
_MEBIBYTE: Final = 1 << 20
_ONE, _OTHER = b"one", b"quite another"
_WRONG_TYPES: Final[tuple[Any, ...]] = (None, 1, True, ["text"], {"text": "text"})


def _message() -> Message:
    return encryption(b"plaintext", b"context")


# --- Base64


def _not_base64(subject: Subject) -> None:
    for text in ("!!!!", "AA=A", "A", "äöü", "AAA{"):
        for name in ("plaintext", "additionalAuthenticatedData"):
            response = subject.call(_ENCRYPT, {**_message(), name: text})
            expect_error(response, ValidationException, when=f"{name} {text!r}")


def _not_base64_to_decrypt(subject: Subject) -> str:
    """The catalogue does not define which of two errors is returned (Q-3)."""
    message = decryption(subject.seal(b"plaintext", b"context"))
    seen = set()
    for name in ("ciphertext", "initializationVector", "authenticationTag", "additionalAuthenticatedData"):
        response = subject.call(_DECRYPT, {**message, name: "!!!!"})
        body = expect_error(response, ValidationException, InvalidCiphertextException, when=f"{name} '!!!!'")
        seen.add(body["errorName"])
    return f"answered {' and '.join(sorted(seen))}"


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
        response = subject.call(_ENCRYPT, {**_message(), "plaintext": text})
        expect_error(response, ValidationException, when=f"plaintext with {what}")


# --- JSON


def _not_json(subject: Subject) -> None:
    for body in (b"", b"nonsense", b'{"requestMetadata":', b"[]", b'"text"', b"1", b"null", b"{'requestMetadata': {}}"):
        for operation in (_HEALTH, _ENCRYPT):
            response = subject.call(operation, body)
            expect_error(response, ValidationException, when=f"the body {body.decode()!r}, {operation.value}")


def _wrong_types(subject: Subject) -> None:
    message = _message()
    for name in ("plaintext", "encryptionAlgorithm"):
        for value in _WRONG_TYPES:
            response = subject.call(_ENCRYPT, {**message, name: value})
            expect_error(response, ValidationException, when=f"{name} {json.dumps(value)}")
    for name in ("plaintext", "encryptionAlgorithm"):
        response = subject.call(_ENCRYPT, {key: value for key, value in message.items() if key != name})
        expect_error(response, ValidationException, when=f"no {name}")


def _json_freedoms(subject: Subject) -> None:
    """Variants of the same JSON: spaces, line breaks, order of members, and escapes in names and values."""
    message = _message()
    indented = json.dumps(dict(reversed(message.items())), indent=4).replace("\n", "\r\n").encode()
    expect_success(subject.call(_ENCRYPT, indented), "indented, members in another order")
    escaped = json.dumps(message).replace('"plaintext"', '"\\u0070laintext"').replace("AES_GCM", "AES\\u005fGCM")
    expect_success(subject.call(_ENCRYPT, escaped.encode()), "with escapes")


def _trailing_bytes(subject: Subject) -> None:
    body = json.dumps(metadata_only(_HEALTH)).encode()
    for rest in (b"x", b"{}", b"\0", b","):
        expect_error(subject.call(_HEALTH, body + rest), ValidationException, when=f"JSON, and then {rest!r}")


def _edges() -> Iterator[tuple[str, bytes]]:
    """Parsers differ for these bodies, so any response in JSON passes."""
    whole = json.dumps(metadata_only(_HEALTH)).encode()
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
    expect_success(subject.call(_HEALTH, metadata_only(_HEALTH)), "after them all")
    return ", ".join(notes)


def _too_large(subject: Subject) -> str:
    """Much longer than any request of KMS. The proxy may also close the connection."""
    body = json.dumps({**metadata_only(_HEALTH), "a": "a" * _MEBIBYTE}).encode()
    try:
        response = subject.call(_HEALTH, body)
    except ConnectionEnded as error:
        return str(error)
    expect_json(response, "1 MiB")
    return f"answered {response.status}"


def _duplicate_members(subject: Subject) -> str:
    """RFC 8259 does not define their meaning. The proxy must refuse them or use one of the values."""
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
    """An error may name the member, but not its value, which may be a secret."""
    secret = "c2VjcmV0LW9mLWEtY2FsbGVy!"  # noqa: S105 - made up
    response = subject.call(_ENCRYPT, {**_message(), "plaintext": secret})
    expect_error(response, ValidationException, when="a plaintext that is no Base64")
    expect(secret[:12].encode() not in response.content, "no quotation of the plaintext", "an error that quotes it")


CHECKS: Final[tuple[Check, ...]] = (
    Check("base64-encrypt", ("R-REQ-8",), Level.MUST, "Encrypt refuses what is not Base64", _not_base64),
    Check("base64-decrypt", ("R-REQ-8",), Level.MUST, "Decrypt refuses it too", _not_base64_to_decrypt),
    Check("base64-strict", ("R-REQ-8",), Level.SHOULD, "Only standard, padded Base64 is accepted", _strict_base64),
    Check("json-invalid", ("R-REQ-1",), Level.MUST, "What is no JSON object is refused", _not_json),
    Check("json-types", ("R-REQ-1",), Level.MUST, "A member of a wrong type is refused", _wrong_types),
    Check("json-freedoms", ("R-REQ-1",), Level.MUST, "JSON may be written in any way", _json_freedoms),
    Check("json-trailing-bytes", ("R-REQ-1",), Level.SHOULD, "Nothing may follow the JSON", _trailing_bytes),
    Check("json-edges", ("R-ERR-4",), Level.SHOULD, "Unusual JSON is answered in JSON", _json_edges),
    Check("json-too-large", ("R-ERR-4",), Level.SHOULD, "A body of 1 MiB is answered in JSON", _too_large),
    Check("json-duplicates", ("R-REQ-1",), Level.SHOULD, "A member given twice has one meaning", _duplicate_members),
    Check("json-no-quotation", ("R-ERR-3",), Level.SHOULD, "Errors do not quote a plaintext", _errors_tell_nothing),
)

"""What the checks of `encrypt` must find."""

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.defect import Defect
from stub_proxy.http import Request, Response, json_response
from xksproxy.spec.errors import InternalException, UnsupportedOperationException, ValidationException
from xksproxy.spec.uri import Operation


def answered(change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Encrypt with something else in its answer."""

    def encrypt(call: Call) -> dict[str, Any]:
        return change(api.encrypt(call))

    return {"operations": {**api.OPERATIONS, Operation.ENCRYPT: encrypt}}


def tag_stays(found: dict[str, Any]) -> dict[str, Any]:
    """As an HSM gives it: the tag behind the ciphertext."""
    sealed = base64.b64decode(found["ciphertext"]) + base64.b64decode(found["authenticationTag"])
    return {**found, "ciphertext": api.encoded(sealed)}


def short_tag(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "authenticationTag": found["authenticationTag"][:16]}


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda found: {key: value for key, value in found.items() if key != name}


def no_encryption(call: Call) -> dict[str, Any]:
    return {**api.encrypt(call), "ciphertext": call.message["plaintext"]}


def no_decryption(call: Call) -> dict[str, Any]:
    return {"plaintext": call.message["ciphertext"]}


def whole_blocks_only(call: Call) -> dict[str, Any]:
    """A cipher that pads."""
    padded = call.required_data("plaintext")
    padded += bytes(-len(padded) % 16)
    return api.encrypt(Call(call.behaviour, call.store, call.route, {**call.message, "plaintext": api.encoded(padded)}))


def any_algorithm(call: Call) -> None:
    call.text("encryptionAlgorithm")


def algorithm_is_a_failure(call: Call) -> None:
    try:
        api.check_algorithm(call)
    except ValidationException:
        raise InternalException("KeyError") from None


def aad_of_4096(aad: bytes, metadata: bytes) -> bytes:
    """What does not fit into a buffer is left out."""
    return api.compose_aad(aad[:4096], metadata)


def first_byte_counts(aad: bytes, metadata: bytes) -> bytes:
    return api.compose_aad(aad[:-1], metadata)


def too_large_is_invalid(request: Request, response: Response) -> Response:
    return json_response(400, {"errorName": "ValidationException"}) if response.status == 501 else response


def unlimited_is_wrong(call: Call) -> dict[str, Any]:
    """What is too large is cut."""
    message = dict(call.message)
    for name, limit in (("plaintext", 4300), ("additionalAuthenticatedData", 8192)):
        if name in message:
            message[name] = api.encoded(base64.b64decode(message[name])[:limit])
    return api.encrypt(Call(call.behaviour, call.store, call.route, message))


def large_is_unsupported(call: Call) -> dict[str, Any]:
    if len(call.required_data("plaintext")) > 4096:
        raise UnsupportedOperationException("too large")
    return api.encrypt(call)


def one_of_256(length: int) -> bytes:
    """A generator that is seeded with too little."""
    return hashlib.sha256(os.urandom(1)).digest()[:length]


def usage_unread(call: Call, key: Any, usage: str) -> None:
    """The HSM would have refused it."""


def usage_is_a_denial(call: Call, key: Any, usage: str) -> None:
    if usage not in key.usage:
        raise ValidationException("the key cannot do that")


def operation(encrypt: Callable[[Call], dict[str, Any]]) -> dict[str, Any]:
    return {"operations": {**api.OPERATIONS, Operation.ENCRYPT: encrypt}}


DEFECTS: tuple[Defect, ...] = (
    Defect("padding", ("enc-length", "enc-round-trip", "dec-round-trip"), operation(whole_blocks_only)),
    Defect("tag-stays", ("enc-length", "enc-round-trip"), answered(tag_stays)),
    Defect("tag-of-12", ("enc-members",), answered(short_tag)),
    Defect("no-tag", ("enc-members",), answered(without("authenticationTag"))),
    Defect("no-iv", ("enc-members",), answered(without("initializationVector"))),
    Defect("iv-of-13", ("enc-members",), {"iv_bytes": 13}),
    Defect("iv-of-8", ("enc-members",), {"iv_bytes": 8}),
    Defect("plaintexts-of-4096", ("enc-round-trip", "dec-round-trip"), {"plaintext_limit": 4096}),
    Defect("large-is-unsupported", ("enc-round-trip",), operation(large_is_unsupported)),
    Defect(
        "no-encryption",
        ("enc-ciphertext",),
        {
            "operations": {
                **api.OPERATIONS,
                Operation.ENCRYPT: no_encryption,
                Operation.DECRYPT: no_decryption,
            }
        },
    ),
    Defect("constant-iv", ("enc-ciphertext", "enc-iv-unique"), {"make_iv": bytes}),
    Defect("iv-of-256", ("enc-iv-unique",), {"make_iv": one_of_256}),
    Defect("metadata-of-21", ("enc-metadata",), {"ciphertext_metadata": bytes(21)}),
    Defect(
        "metadata-in-hexadecimal",
        ("enc-metadata",),
        answered(lambda found: {**found, "ciphertextMetadata": b"key_version=1".hex()}),
    ),
    Defect("aad-of-4096", ("enc-aad", "dec-aad"), {"aad_limit": 4096}),
    Defect("aad-is-cut", ("enc-aad-used",), {"compose_aad": aad_of_4096}),
    Defect("aad-without-its-end", ("enc-aad-used", "tamper-aad-bits"), {"compose_aad": first_byte_counts}),
    Defect(
        "any-algorithm", ("enc-algorithm", "enc-cdiv-algorithm", "dec-algorithm"), {"check_algorithm": any_algorithm}
    ),
    Defect(
        "algorithm-is-a-failure",
        ("enc-algorithm", "enc-cdiv-algorithm", "dec-algorithm"),
        {"check_algorithm": algorithm_is_a_failure},
    ),
    Defect("too-large-is-invalid", ("enc-longer-plaintext", "enc-longer-aad"), {"finish": too_large_is_invalid}),
    Defect(
        "too-large-is-cut",
        ("enc-longer-plaintext", "enc-longer-aad"),
        {**operation(unlimited_is_wrong), "aad_limit": 1 << 20},
    ),
    Defect(
        "far-too-large-is-cut",
        ("enc-unwritable-aad",),
        {"refuse_http": lambda status: json_response(200, {"ciphertext": "AA=="})},
    ),
    Defect(
        "usage-unread",
        ("enc-decrypt-only-key", "enc-impotent-key", "dec-encrypt-only-key", "dec-impotent-key"),
        {"check_usage": usage_unread},
    ),
    Defect(
        "usage-is-invalid",
        ("enc-decrypt-only-key", "enc-impotent-key", "dec-encrypt-only-key", "dec-impotent-key"),
        {"check_usage": usage_is_a_denial},
    ),
)

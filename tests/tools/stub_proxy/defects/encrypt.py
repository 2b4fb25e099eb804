"""What the checks of `encrypt` must find."""

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from stub_proxy.http import Request, Response, json_response


def answered(change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Another answer of Encrypt."""
    return operations(ENCRYPT=lambda call: change(api.encrypt(call)))


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


def any_algorithm(call: Call) -> None:
    call.text("encryptionAlgorithm")


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


def one_of_256(length: int) -> bytes:
    """A generator that is seeded with too little."""
    return hashlib.sha256(os.urandom(1)).digest()[:length]


def usage_unread(call: Call, key: Any, usage: str) -> None:
    """The HSM would have refused it."""


DEFECTS: tuple[Defect, ...] = (
    Defect("tag-stays", ("enc-length", "enc-round-trip"), answered(tag_stays)),
    Defect("tag-of-12", ("enc-members",), answered(short_tag)),
    Defect("no-tag", ("enc-members",), answered(without("authenticationTag"))),
    Defect("no-iv", ("enc-members",), answered(without("initializationVector"))),
    Defect("iv-of-13", ("enc-members",), {"iv_bytes": 13}),
    Defect("plaintexts-of-4096", ("enc-round-trip", "dec-round-trip"), {"plaintext_limit": 4096}),
    Defect("no-encryption", ("enc-ciphertext",), operations(ENCRYPT=no_encryption, DECRYPT=no_decryption)),
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
    Defect("too-large-is-invalid", ("enc-longer-plaintext", "enc-longer-aad"), {"finish": too_large_is_invalid}),
    Defect(
        "too-large-is-cut",
        ("enc-longer-plaintext", "enc-longer-aad"),
        {**operations(ENCRYPT=unlimited_is_wrong), "aad_limit": 1 << 20},
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
)

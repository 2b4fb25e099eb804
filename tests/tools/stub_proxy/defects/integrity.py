"""What the checks of `integrity` must find."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from xksproxy.spec.uri import Operation


def value_of(parts: Callable[[dict[str, bytes]], tuple[bytes, ...]]) -> dict[str, Any]:
    """The integrity value over other bytes."""

    def integrity_value(**given: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts(given))).digest()

    return {"integrity_value": integrity_value}


def right(given: dict[str, bytes]) -> tuple[bytes, ...]:
    return tuple(given[name] for name in ("aad", "ciphertext_metadata", "iv", "ciphertext", "tag"))


def without(name: str) -> dict[str, Any]:
    return value_of(lambda given: right({**given, name: b""}))


def never_asked_for(call: Call) -> dict[str, Any]:
    return {name: value for name, value in api.encrypt(call).items() if name != "ciphertextDataIntegrityValue"}


def no_trial(call: Call, key: Any, usage: str) -> None:
    if call.route.operation is not Operation.ENCRYPT or usage == "ENCRYPT":
        api.check_usage(call, key, usage)


def encrypt_needs_both(call: Call, key: Any, usage: str) -> None:
    """Every Encrypt is proven, asked for or not."""
    api.check_usage(call, key, usage)
    api.check_usage(call, key, "DECRYPT")


def lengths_of_what_is_there(aad: bytes, metadata: bytes) -> bytes:
    return api.compose_aad(aad, metadata) if metadata else aad


def one_length(aad: bytes, metadata: bytes) -> bytes:
    """That of the metadata, if there is any."""
    return aad + bytes([len(metadata)]) + metadata if metadata else aad


def sorted_parts(aad: bytes, metadata: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in sorted((aad, metadata)))


def absent_is_a_word(operation: Operation) -> Callable[[Call], dict[str, Any]]:
    """None becomes text on its way."""

    def run(call: Call) -> dict[str, Any]:
        message = {"additionalAuthenticatedData": api.encoded(b"None"), **call.message}
        return api.OPERATIONS[operation](replace(call, message=message))

    return run


DEFECTS: tuple[Defect, ...] = (
    Defect("no-integrity-value", ("cdiv-returned", "cdiv-value", "cdiv-aad"), operations(ENCRYPT=never_asked_for)),
    Defect("integrity-value-of-31", ("cdiv-returned",), {"integrity_value": lambda **given: bytes(31)}),
    Defect("value-without-metadata", ("cdiv-value", "cdiv-aad"), without("ciphertext_metadata")),
    Defect("value-without-aad", ("cdiv-value", "cdiv-aad"), without("aad")),
    Defect("value-without-tag", ("cdiv-value",), without("tag")),
    Defect("value-of-4096", ("cdiv-aad",), value_of(lambda given: right({**given, "aad": given["aad"][:4096]}))),
    Defect(
        "value-of-4096-bytes-of-ciphertext",
        ("cdiv-value",),
        value_of(lambda given: right({**given, "ciphertext": given["ciphertext"][:4096]})),
    ),
    Defect("no-trial", ("cdiv-encrypt-only-key",), {"check_usage": no_trial}),
    Defect("encrypt-needs-both", ("cdiv-encrypt-only-key",), {"check_usage": encrypt_needs_both}),
    Defect("lengths-left-out", ("cdiv-moved",), {"compose_aad": lambda aad, metadata: aad + metadata}),
    Defect("metadata-first", ("cdiv-moved",), {"compose_aad": lambda aad, metadata: metadata + aad}),
    Defect("sorted-parts", ("cdiv-swapped",), {"compose_aad": sorted_parts}),
    Defect("lengths-of-what-is-there", ("cdiv-forged",), {"compose_aad": lengths_of_what_is_there}),
    Defect("one-length", ("cdiv-forged",), {"compose_aad": one_length}),
    Defect(
        "absent-is-a-word",
        ("cdiv-absent",),
        operations(ENCRYPT=absent_is_a_word(Operation.ENCRYPT), DECRYPT=absent_is_a_word(Operation.DECRYPT)),
    ),
)

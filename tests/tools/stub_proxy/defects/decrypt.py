"""What the checks of `decrypt` must find."""

import base64
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from xksproxy.spec.errors import InternalException, InvalidCiphertextException

SEALED = ("ciphertext", "initializationVector", "authenticationTag")


def padded(call: Call) -> dict[str, Any]:
    """To whole blocks."""
    plaintext = base64.b64decode(api.decrypt(call)["plaintext"])
    return {"plaintext": api.encoded(plaintext + bytes(-len(plaintext) % 16))}


def large_is_a_failure(call: Call) -> dict[str, Any]:
    if len(call.required_data("ciphertext")) > 4300:
        raise InternalException("CKR_BUFFER_TOO_SMALL")
    return api.decrypt(call)


def aad_in_8192(call: Call) -> dict[str, Any]:
    """The buffer was not made for the lengths that are composed."""
    if len(call.data("additionalAuthenticatedData") or b"") > 8192 - 3:
        raise InternalException("CKR_BUFFER_TOO_SMALL")
    return api.decrypt(call)


class DecryptsOnce:
    """Takes a second Decrypt for a replay."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, call: Call) -> dict[str, Any]:
        tag = call.message["authenticationTag"]
        if tag in self.seen:
            raise InvalidCiphertextException("seen before")
        self.seen.add(tag)
        return api.decrypt(call)


class KeepsAFailure:
    """Leaves the session in the operation that failed, so that the next one fails too."""

    def __init__(self) -> None:
        self.active = False

    def __call__(self, call: Call) -> dict[str, Any]:
        if self.active:
            self.active = False
            raise InternalException("CKR_OPERATION_ACTIVE")
        try:
            return api.decrypt(call)
        except InvalidCiphertextException:
            self.active = True
            raise


def any_lengths(iv: bytes, tag: bytes, metadata: bytes) -> None:
    """Whatever the HSM makes of them."""


def lengths_are_a_failure(iv: bytes, tag: bytes, metadata: bytes) -> None:
    try:
        api.check_lengths(iv, tag, metadata)
    except InvalidCiphertextException:
        raise InternalException("CKR_MECHANISM_PARAM_INVALID") from None


def open_with(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    """Verifies as much of the tag as is given."""
    try:
        decryptor = Cipher(AES(key), GCM(iv, tag, min_tag_length=4)).decryptor()
        decryptor.authenticate_additional_data(aad)
        return decryptor.update(ciphertext) + decryptor.finalize()
    except (InvalidTag, ValueError):
        raise InvalidCiphertextException("the tag does not fit") from None


def iv_is_cut(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    return open_with(key, iv[:12], ciphertext, tag, aad)


def metadata_is_trimmed(aad: bytes, metadata: bytes) -> bytes:
    """As if it were text in a field of fixed length."""
    return api.compose_aad(aad, metadata.rstrip(b"\0"))


def missing_is_a_failure(call: Call) -> dict[str, Any]:
    if not all(call.message.get(name) for name in SEALED):
        raise InternalException("KeyError")
    return api.decrypt(call)


def types_are_a_failure(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InternalException("TypeError")
    return value


DEFECTS: tuple[Defect, ...] = (
    Defect("padding-stays", ("dec-round-trip", "enc-round-trip"), operations(DECRYPT=padded)),
    Defect("aad-in-8192", ("dec-aad", "dec-round-trip"), operations(DECRYPT=aad_in_8192)),
    Defect("decrypts-once", ("dec-everywhere",), operations(DECRYPT=DecryptsOnce())),
    Defect("keeps-a-failure", ("dec-after-refusals",), operations(DECRYPT=KeepsAFailure())),
    Defect("large-is-a-failure", ("dec-longer",), operations(DECRYPT=large_is_a_failure)),
    Defect(
        "lengths-are-a-failure",
        ("dec-iv-length", "dec-tag-length", "dec-metadata-length"),
        {"check_lengths": lengths_are_a_failure},
    ),
    Defect("short-tags", ("dec-tag-length",), {"check_lengths": any_lengths, "open_sealed": open_with}),
    Defect("iv-is-cut", ("dec-iv-length",), {"check_lengths": any_lengths, "open_sealed": iv_is_cut}),
    Defect(
        "metadata-is-trimmed",
        ("dec-metadata-length", "tamper-metadata"),
        {"check_lengths": any_lengths, "compose_aad": metadata_is_trimmed},
    ),
    Defect("missing-is-a-failure", ("dec-missing",), operations(DECRYPT=missing_is_a_failure)),
    Defect("types-are-a-failure", ("dec-types",), {"read_text": types_are_a_failure}),
)

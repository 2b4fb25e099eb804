"""What the checks of `tampering` must find."""

from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from stub_proxy.defects.decrypt import open_with
from stub_proxy.http import Request, Response, json_response
from xksproxy.spec.errors import InvalidCiphertextException

BITS = ("tamper-ciphertext-bits", "tamper-iv-bits", "tamper-tag-bits", "tamper-aad-bits", "tamper-metadata-bits")
PARTS = ("tamper-ciphertext", "tamper-no-ciphertext", "tamper-iv-and-tag", "tamper-aad", "tamper-aad-added")
METADATA = ("tamper-metadata", "tamper-metadata-emptied", "tamper-metadata-other")
ALL = (*BITS, *PARTS, *METADATA, "tamper-joined")


def unverified(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    """The stream cipher alone."""
    return Cipher(AES(key), GCM(iv)).decryptor().update(ciphertext)


def twelve_bytes_of_the_tag(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    return open_with(key, iv, ciphertext, tag[:12], aad)


def last_bit_unread(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    """Tries the tag with either last bit."""
    try:
        return api.open_sealed(key, iv, ciphertext, tag, aad)
    except InvalidCiphertextException:
        return api.open_sealed(key, iv, ciphertext, tag[:-1] + bytes([tag[-1] ^ 1]), aad)


def first_16_bytes(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    return api.open_sealed(key, iv, ciphertext[:16], tag, aad)


def nothing_to_verify(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    return api.open_sealed(key, iv, ciphertext, tag, aad) if ciphertext else b""


def renamed(status: int, name: str) -> dict[str, Any]:
    """InvalidCiphertextException under another name."""

    def finish(request: Request, response: Response) -> Response:
        invalid = b"InvalidCiphertextException" in response.body
        return json_response(status, {"errorName": name}) if invalid else response

    return {"finish": finish}


def plaintext_beside_the_error(request: Request, response: Response) -> Response:
    """What was decrypted before the tag was looked at."""
    return replace(response, body=response.body.replace(b'"errorMessage"', b'"plaintext":"AAAA","errorMessage"'))


def metadata_is_lower_case(aad: bytes, metadata: bytes) -> bytes:
    return api.compose_aad(aad, metadata.lower())


def optional_metadata(call: Call) -> dict[str, Any]:
    """What is missing is filled in."""
    metadata = call.message.get("ciphertextMetadata") or api.encoded(call.behaviour.ciphertext_metadata or b"")
    return api.decrypt(replace(call, message={**call.message, "ciphertextMetadata": metadata}))


class RemembersByTag:
    """A cache that saves the HSM work."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}

    def __call__(self, call: Call) -> dict[str, Any]:
        tag = call.message["authenticationTag"]
        if tag not in self.known:
            self.known[tag] = api.decrypt(call)
        return self.known[tag]


def aad_unless_it_is_absent(call: Call) -> dict[str, Any]:
    """Tries without AAD where it fails with it."""
    try:
        return api.decrypt(call)
    except InvalidCiphertextException:
        message = {name: value for name, value in call.message.items() if name != "additionalAuthenticatedData"}
        return api.decrypt(replace(call, message=message))


DEFECTS: tuple[Defect, ...] = (
    Defect("tag-unverified", ALL, {"open_sealed": unverified}),
    Defect("wrong-tag-is-a-failure", ("tamper-iv-and-tag",), renamed(500, "InternalException")),
    Defect("wrong-tag-is-invalid", ("tamper-tag-bits", "tamper-joined"), renamed(400, "ValidationException")),
    Defect("plaintext-beside-the-error", ("tamper-iv-and-tag",), {"finish": plaintext_beside_the_error}),
    Defect("twelve-bytes-of-the-tag", ("tamper-tag-bits",), {"open_sealed": twelve_bytes_of_the_tag}),
    Defect("last-bit-unread", ("tamper-tag-bits",), {"open_sealed": last_bit_unread}),
    Defect("first-16-bytes", ("tamper-ciphertext",), {"open_sealed": first_16_bytes}),
    Defect("nothing-to-verify", ("tamper-no-ciphertext",), {"open_sealed": nothing_to_verify}),
    Defect(
        "aad-unused",
        ("tamper-aad-bits", "tamper-aad", "tamper-aad-added", "enc-aad-used"),
        {"compose_aad": lambda aad, metadata: api.compose_aad(b"", metadata)},
    ),
    Defect("aad-added-is-left-out", ("tamper-aad-added",), operations(DECRYPT=aad_unless_it_is_absent)),
    Defect(
        "metadata-unused",
        ("tamper-metadata-bits", *METADATA),
        {"compose_aad": lambda aad, metadata: api.compose_aad(aad, b"")},
    ),
    Defect("metadata-is-lower-case", ("tamper-metadata-bits",), {"compose_aad": metadata_is_lower_case}),
    Defect("optional-metadata", ("tamper-metadata", "tamper-metadata-emptied"), operations(DECRYPT=optional_metadata)),
    Defect(
        "no-metadata-and-unused",
        ("tamper-metadata-other",),
        {"ciphertext_metadata": None, "compose_aad": lambda aad, metadata: api.compose_aad(aad, b"")},
    ),
)

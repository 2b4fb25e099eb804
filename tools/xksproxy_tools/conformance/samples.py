"""Sample plaintexts and AAD of critical lengths, and the check that they are decrypted."""

import hashlib
from typing import Final

from xksproxy.spec.errors import ValidationException
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MINIMUM_PLAINTEXT_BYTES
from xksproxy_tools.conformance.expectations import bytes_member, expect_error, expect_success, sealed_of
from xksproxy_tools.conformance.messages import Sealed
from xksproxy_tools.conformance.outcome import expect
from xksproxy_tools.conformance.subject import Subject

PLAINTEXT_LENGTHS: Final = (0, 1, 15, 16, 17, 4095, 4096, MINIMUM_PLAINTEXT_BYTES)
"""Around the block size of AES, around a power of two, and the length that every proxy must support."""

AAD_LENGTHS: Final = (0, 1, 15, 16, 17, 255, 256, 4096, MAXIMUM_AAD_BYTES - 1, MAXIMUM_AAD_BYTES)
"""Also around the limit of a length in one byte."""


def sample(length: int) -> bytes:
    """Pseudo-random bytes, the same in every run."""
    return hashlib.shake_256(b"conformance").digest(length)


def seal_sample(subject: Subject, plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False) -> Sealed | None:
    """Encrypt, which must succeed. None if an empty plaintext or empty AAD is refused (Q-13)."""
    when = lengths(plaintext, aad)
    response = subject.encrypt(plaintext, aad, cdiv=cdiv)
    if response.status == ValidationException.http_status and (not plaintext or aad == b""):
        expect_error(response, ValidationException, when=when)
        return None
    return sealed_of(expect_success(response, when), aad)


def expect_decrypts(subject: Subject, sealed: Sealed, plaintext: bytes, when: str) -> None:
    """Decrypt, which must return the plaintext. A wrong plaintext is not shown."""
    opened = bytes_member(expect_success(subject.decrypt(sealed), when), "plaintext")
    expect(len(opened) == len(plaintext), f"{len(plaintext)} bytes of plaintext ({when})", f"{len(opened)} bytes")
    expect(opened == plaintext, f"the plaintext that was encrypted ({when})", "other bytes")


def lengths(plaintext: bytes, aad: bytes | None) -> str:
    """The description of a sample in failures."""
    return f"{len(plaintext)} bytes with {'no' if aad is None else f'{len(aad)} bytes of'} AAD"

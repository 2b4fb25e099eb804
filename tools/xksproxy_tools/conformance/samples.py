"""Plaintexts and AAD of the lengths at which implementations differ, and the proof that they come back."""

import hashlib
from typing import Final

from xksproxy.spec.errors import ValidationException
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MINIMUM_PLAINTEXT_BYTES
from xksproxy_tools.conformance.expectations import bytes_member, expect_error, expect_success, sealed_of
from xksproxy_tools.conformance.messages import Sealed
from xksproxy_tools.conformance.outcome import expect
from xksproxy_tools.conformance.subject import Subject

PLAINTEXT_LENGTHS: Final = (0, 1, 15, 16, 17, 4095, 4096, MINIMUM_PLAINTEXT_BYTES)
"""Around the block of AES, around a power of two, and the most that every proxy must take."""

AAD_LENGTHS: Final = (0, 1, 15, 16, 17, 255, 256, 4096, MAXIMUM_AAD_BYTES - 1, MAXIMUM_AAD_BYTES)
"""Also around what one byte of a length can say."""


def sample(length: int) -> bytes:
    """Bytes without a pattern, the same in every run."""
    return hashlib.shake_256(b"conformance").digest(length)


def seal_sample(subject: Subject, plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False) -> Sealed | None:
    """Encrypt, which must succeed; None where nothing was to encrypt, or empty AAD given, and it was refused (Q-13)."""
    when = lengths(plaintext, aad)
    response = subject.encrypt(plaintext, aad, cdiv=cdiv)
    if response.status == ValidationException.http_status and (not plaintext or aad == b""):
        expect_error(response, ValidationException, when=when)
        return None
    return sealed_of(expect_success(response, when), aad)


def expect_decrypts(subject: Subject, sealed: Sealed, plaintext: bytes, when: str) -> None:
    """Decrypt what was sealed, which must give the plaintext; it is not shown if it does not."""
    opened = bytes_member(expect_success(subject.decrypt(sealed), when), "plaintext")
    expect(len(opened) == len(plaintext), f"{len(plaintext)} bytes of plaintext ({when})", f"{len(opened)} bytes")
    expect(opened == plaintext, f"the plaintext that was encrypted ({when})", "other bytes")


def lengths(plaintext: bytes, aad: bytes | None) -> str:
    """What a failure tells of a sample."""
    return f"{len(plaintext)} bytes with {'no' if aad is None else f'{len(aad)} bytes of'} AAD"

"""Key material on the side of KMS: the inner layer of the double encryption, and the only one of ordinary KMS keys."""

import os
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from xksproxy.spec.limits import TAG_BYTES
from xksproxy_tools.kms_emulator.proxy.answers import Sealed

_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12


class MaterialRejects(Exception):
    """The tag does not fit: ciphertext, authenticated data or key material are not those of the encryption."""


@dataclass(frozen=True, slots=True)
class Material:
    """An AES-256 key. It never shows in a repr."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != _KEY_BYTES:
            raise ValueError(f"key material has {len(self.key)} bytes; expected {_KEY_BYTES}")

    @classmethod
    def generate(cls) -> Self:
        """Fresh random key material."""
        return cls(os.urandom(_KEY_BYTES))

    def encrypt(self, plaintext: bytes, aad: bytes) -> Sealed:
        """AES-256-GCM with a random IV of 12 bytes, good for 2^32 encryptions of a key (NIST SP 800-38D, 8.3).

        Nobody counts them: this is a tool for tests.
        """
        iv = os.urandom(_IV_BYTES)
        output = AESGCM(self.key).encrypt(iv, plaintext, aad)
        return Sealed(output[:-TAG_BYTES], None, iv, output[-TAG_BYTES:])

    def decrypt(self, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            MaterialRejects: it was not encrypted so.
        """
        try:
            return AESGCM(self.key).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, aad)
        except InvalidTag:
            raise MaterialRejects("the key material does not open the ciphertext") from None


def join(sealed: Sealed) -> bytes:
    """The inner layer as one text, which a proxy gets to encrypt: IV, ciphertext, tag; 28 bytes more than the data."""
    return sealed.iv + sealed.ciphertext + sealed.tag


def split(data: bytes) -> Sealed:
    """The inverse of :func:`join`.

    Raises:
        MaterialRejects: it is too short to be one.
    """
    if len(data) < _IV_BYTES + TAG_BYTES:
        raise MaterialRejects(f"{len(data)} bytes are too few for a ciphertext")
    return Sealed(data[_IV_BYTES:-TAG_BYTES], None, data[:_IV_BYTES], data[-TAG_BYTES:])

"""Key material in KMS: the inner layer of double encryption, and the only layer of ordinary KMS keys."""

import os
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from xksproxy.spec.limits import TAG_BYTES
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12


class KeyMaterialMismatch(Exception):
    """The tag is wrong: ciphertext, authenticated data or key material differ from those of the encryption."""


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """An AES-256 key. Its repr hides the value."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != _KEY_BYTES:
            raise ValueError(f"key material has {len(self.key)} bytes; expected {_KEY_BYTES}")

    @classmethod
    def generate(cls) -> Self:
        """Generate random key material."""
        return cls(os.urandom(_KEY_BYTES))

    def encrypt(self, plaintext: bytes, aad: bytes) -> Sealed:
        """AES-256-GCM with a random IV of 12 bytes, safe for 2^32 encryptions with a key (NIST SP 800-38D, 8.3).

        Encryptions are not counted: this is a tool for tests.
        """
        iv = os.urandom(_IV_BYTES)
        output = AESGCM(self.key).encrypt(iv, plaintext, aad)
        return Sealed(output[:-TAG_BYTES], None, iv, output[-TAG_BYTES:])

    def decrypt(self, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            KeyMaterialMismatch: key material, ciphertext or authenticated data are wrong.
        """
        try:
            return AESGCM(self.key).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, aad)
        except InvalidTag:
            raise KeyMaterialMismatch("the key material does not decrypt the ciphertext") from None


def join(sealed: Sealed) -> bytes:
    """The inner layer as bytes for the proxy to encrypt: IV, ciphertext, tag; 28 bytes more than the plaintext."""
    return sealed.iv + sealed.ciphertext + sealed.tag


def split(data: bytes) -> Sealed:
    """The inverse of :func:`join`.

    Raises:
        KeyMaterialMismatch: the data is too short.
    """
    if len(data) < _IV_BYTES + TAG_BYTES:
        raise KeyMaterialMismatch(f"{len(data)} bytes are too few for a ciphertext")
    return Sealed(data[_IV_BYTES:-TAG_BYTES], None, data[:_IV_BYTES], data[-TAG_BYTES:])

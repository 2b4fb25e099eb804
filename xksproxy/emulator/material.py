"""Key material on the side of KMS: the inner layer of the double encryption, and the only one of ordinary KMS keys."""

from dataclasses import dataclass, field
from typing import Self

from xksproxy.emulator.proxy.answers import Sealed


class MaterialRejects(Exception):
    """The tag does not fit: ciphertext, authenticated data or key material are not those of the encryption."""


@dataclass(frozen=True, slots=True)
class Material:
    """An AES-256 key. It never shows in a repr."""

    key: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Fresh random key material."""
        raise NotImplementedError

    def encrypt(self, plaintext: bytes, aad: bytes) -> Sealed:
        """AES-256-GCM with a random IV of 12 bytes. The caller bounds the number of encryptions (2^32 for a key)."""
        raise NotImplementedError

    def decrypt(self, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            MaterialRejects: it was not encrypted so.
        """
        raise NotImplementedError


def join(sealed: Sealed) -> bytes:
    """The inner layer as one text, which is what a proxy gets to encrypt: 28 bytes longer than the user's data."""
    raise NotImplementedError


def split(data: bytes) -> Sealed:
    """The inverse of :func:`join`.

    Raises:
        MaterialRejects: it is too short.
    """
    raise NotImplementedError

"""The ciphertext data integrity value (CDIV)."""

import hashlib


def integrity_prefix(aad: bytes, ciphertext_metadata: bytes) -> bytes:
    """The part of what is hashed that is known before the encryption."""
    return aad + ciphertext_metadata


def integrity_value_after(prefix: bytes, *, iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """The integrity value from its :func:`integrity_prefix` and the output of the encryption; 32 bytes."""
    return hashlib.sha256(b"".join((prefix, iv, ciphertext, tag))).digest()


def integrity_value(*, aad: bytes, ciphertext_metadata: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """SHA-256 over AAD, ciphertext metadata, IV, ciphertext and tag, without lengths; 32 bytes (R-CDIV-5)."""
    return integrity_value_after(integrity_prefix(aad, ciphertext_metadata), iv=iv, ciphertext=ciphertext, tag=tag)

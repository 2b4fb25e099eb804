"""The ciphertext data integrity value (CDIV)."""

import hashlib


def integrity_value(*, aad: bytes, ciphertext_metadata: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """SHA-256 over AAD, ciphertext metadata, IV, ciphertext and tag, without lengths; 32 bytes (R-CDIV-5)."""
    return hashlib.sha256(b"".join((aad, ciphertext_metadata, iv, ciphertext, tag))).digest()

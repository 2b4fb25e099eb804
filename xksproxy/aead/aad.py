"""The additional authenticated data (AAD) that the proxy sends to the HSM."""

import hashlib
import struct
from enum import Enum
from typing import Final

from xksproxy.spec.limits import MAXIMUM_CIPHERTEXT_METADATA_BYTES

_MAXIMUM_LENGTH: Final = 0xFFFF


class AadEncoding(Enum):
    """How the AAD of the caller is encoded in the composed AAD."""

    # Enum's own hashes the name in Python, at each look-up in a table.
    __hash__ = object.__hash__

    PLAIN = "plain"
    """Unchanged: the layout of the specification (R-CDIV-2)."""

    SHA256 = "sha256"
    """As its SHA-256: the layout of AWS's sample proxy, and for HSMs that accept only a short AAD."""


def compose_aad(aad: bytes | None, ciphertext_metadata: bytes, encoding: AadEncoding = AadEncoding.PLAIN) -> bytes:
    """Compose the AAD of the caller and the ciphertext metadata, with lengths, so that the two cannot be confused.

    ::

                +-----------------+--------------+--------------+---------------------+
        plain   | len(AAD), 16 BE | AAD          | len(CTM), 8  | ciphertext metadata |
                +-----------------+--------------+--------------+---------------------+
        sha256  | len(AAD), 16 BE | SHA-256(AAD) | len(CTM), 8  | ciphertext metadata |
                +-----------------+--------------+--------------+---------------------+

    An absent part is empty, and its length is still written (R-CDIV-1 to R-CDIV-3). So with plain, an empty AAD and an
    absent AAD are the same. With sha256 they differ: an absent AAD has no digest.

    Raises:
        ValueError: the AAD has more than 65535 bytes or the metadata more than 20. Callers check the API limits first.
    """
    length = 0 if aad is None else len(aad)
    if length > _MAXIMUM_LENGTH or len(ciphertext_metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        raise ValueError("the AAD has more than 65535 bytes, or the ciphertext metadata more than 20")
    encoded = b"" if aad is None else hashlib.sha256(aad).digest() if encoding is AadEncoding.SHA256 else aad
    return b"".join(
        (struct.pack(">H", length), encoded, struct.pack(">B", len(ciphertext_metadata)), ciphertext_metadata),
    )

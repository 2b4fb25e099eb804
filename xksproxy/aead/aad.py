"""What the proxy hands to the HSM as additional authenticated data."""

import hashlib
import struct
from enum import Enum
from typing import Final

from xksproxy.spec.limits import MAXIMUM_CIPHERTEXT_METADATA_BYTES

_MAXIMUM_LENGTH: Final = 0xFFFF


class AadEncoding(Enum):
    """How the caller's AAD goes into the composed one."""

    PLAIN = "plain"
    """As it is: the layout of the specification (R-CDIV-2)."""

    SHA256 = "sha256"
    """By its SHA-256: the layout of AWS's sample proxy, and for HSMs that take only a short AAD."""


def compose_aad(aad: bytes | None, ciphertext_metadata: bytes, encoding: AadEncoding = AadEncoding.PLAIN) -> bytes:
    """Bind the caller's AAD and the ciphertext metadata together, so that neither can pass for the other.

    ::

                +-----------------+--------------+--------------+---------------------+
        plain   | len(AAD), 16 BE | AAD          | len(CTM), 8  | ciphertext metadata |
                +-----------------+--------------+--------------+---------------------+
        sha256  | len(AAD), 16 BE | SHA-256(AAD) | len(CTM), 8  | ciphertext metadata |
                +-----------------+--------------+--------------+---------------------+

    An absent part counts as empty, its length still written (R-CDIV-1 to R-CDIV-3); so plain cannot tell an empty AAD
    from an absent one, and sha256 can: an absent AAD has no digest.

    Raises:
        ValueError: the AAD is above 65535 bytes or the metadata above 20; callers check the API's limits before.
    """
    length = 0 if aad is None else len(aad)
    if length > _MAXIMUM_LENGTH or len(ciphertext_metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        raise ValueError("AAD or ciphertext metadata is too long to be composed")
    text = b"" if aad is None else hashlib.sha256(aad).digest() if encoding is AadEncoding.SHA256 else aad
    return b"".join(
        (struct.pack(">H", length), text, struct.pack(">B", len(ciphertext_metadata)), ciphertext_metadata),
    )

"""What the proxy hands to the HSM as additional authenticated data."""

import struct
from typing import Final

from xksproxy.spec.limits import MAXIMUM_CIPHERTEXT_METADATA_BYTES

_MAXIMUM_LENGTH: Final = 0xFFFF


def compose_aad(aad: bytes, ciphertext_metadata: bytes) -> bytes:
    """Bind the caller's AAD and the ciphertext metadata together, so that neither can pass for the other.

    ::

        +-----------------+-----+--------------+---------------------+
        | len(AAD), 16 BE | AAD | len(CTM), 8  | ciphertext metadata |
        +-----------------+-----+--------------+---------------------+

    An absent part counts as empty, its length still written (R-CDIV-1 to R-CDIV-3).

    Raises:
        ValueError: the AAD is above 65535 bytes or the metadata above 20; callers check the API's limits before.
    """
    if len(aad) > _MAXIMUM_LENGTH or len(ciphertext_metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        raise ValueError("AAD or ciphertext metadata is too long to be composed")
    return b"".join(
        (struct.pack(">H", len(aad)), aad, struct.pack(">B", len(ciphertext_metadata)), ciphertext_metadata),
    )

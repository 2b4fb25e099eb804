"""The ciphertext metadata that the proxy writes: which key version encrypted, and how its AAD was encoded."""

import struct
from typing import Final

import msgspec

from xksproxy.aead.aad import AadEncoding

MAXIMUM_VERSION: Final = 0xFFFF
"""The highest number of a key version; the lowest is 1."""

_FORMAT_1: Final = 0xF9
_MARKERS: Final = range(0xF8, 0x100)
_LAYOUT: Final = struct.Struct(">BBH")
_CODES: Final = {AadEncoding.PLAIN: 0, AadEncoding.SHA256: 1}
_ENCODINGS: Final = {code: encoding for encoding, code in _CODES.items()}


class UnknownMetadata(ValueError):
    """Metadata that this release did not write and cannot read."""


class CiphertextMetadata(msgspec.Struct, frozen=True):
    """What format 1 says, in four bytes.

    ::

        +----------------+-------------------+--------------------+
        | 0xF9: format 1 | AAD encoding, 8   | version, 16 BE     |
        +----------------+-------------------+--------------------+
                           0 plain, 1 sha256   1 to 65535

    The first byte of every format is 0xF8 to 0xFF, which stands in no UTF-8 text. It goes into the composed AAD, so the
    tag protects it (R-CDIV-1, R-CDIV-4).
    """

    version: int
    aad_encoding: AadEncoding

    def pack(self) -> bytes:
        """The four bytes."""
        return _LAYOUT.pack(_FORMAT_1, _CODES[self.aad_encoding], self.version)

    @classmethod
    def unpack(cls, data: bytes) -> "CiphertextMetadata":
        """Read what :meth:`pack` wrote.

        Raises:
            UnknownMetadata: it is anything else.
        """
        if len(data) != _LAYOUT.size:
            raise UnknownMetadata(f"it has {len(data)} bytes, and format 1 has {_LAYOUT.size}")
        marker, code, version = _LAYOUT.unpack(data)
        if marker != _FORMAT_1 or code not in _ENCODINGS or version == 0:
            raise UnknownMetadata("its first byte, AAD encoding or version is none of format 1")
        return cls(version, _ENCODINGS[code])


def is_proxy_metadata(data: bytes) -> bool:
    """Whether the first byte says that the proxy wrote it, in this format or in one of another release."""
    return bool(data) and data[0] in _MARKERS

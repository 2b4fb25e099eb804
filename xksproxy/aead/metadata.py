"""The ciphertext metadata that the proxy writes: the key version that encrypted, and the AAD encoding."""

import struct
from typing import Final

import msgspec

from xksproxy.aead.aad import AadEncoding

MAXIMUM_VERSION: Final = 0xFFFF
"""The highest key version. The lowest is 1."""

_FORMAT_1: Final = 0xF9
_FORMAT_BYTES: Final = range(0xF8, 0x100)
_LAYOUT: Final = struct.Struct(">BBH")
_CODES: Final = {AadEncoding.PLAIN: 0, AadEncoding.SHA256: 1}
_ENCODINGS: Final = {code: encoding for encoding, code in _CODES.items()}


class UnknownMetadata(ValueError):
    """The metadata is not of a format that this release can read."""


class CiphertextMetadata(msgspec.Struct, frozen=True):
    """Ciphertext metadata of format 1, four bytes.

    ::

        +----------------+-------------------+--------------------+
        | 0xF9: format 1 | AAD encoding, 8   | version, 16 BE     |
        +----------------+-------------------+--------------------+
                           0 plain, 1 sha256   1 to 65535

    The first byte of every format is 0xF8 to 0xFF, which UTF-8 text never contains. It is part of the composed
    AAD, so the tag authenticates it (R-CDIV-1, R-CDIV-4).
    """

    version: int
    aad_encoding: AadEncoding

    def pack(self) -> bytes:
        """Encode to four bytes."""
        return _LAYOUT.pack(_FORMAT_1, _CODES[self.aad_encoding], self.version)

    @classmethod
    def unpack(cls, data: bytes) -> "CiphertextMetadata":
        """Decode the output of :meth:`pack`.

        Raises:
            UnknownMetadata: the data has another form.
        """
        if len(data) != _LAYOUT.size:
            raise UnknownMetadata(f"it has {len(data)} bytes, and format 1 has {_LAYOUT.size}")
        format_byte, code, version = _LAYOUT.unpack(data)
        if format_byte != _FORMAT_1 or code not in _ENCODINGS or version == 0:
            raise UnknownMetadata("its first byte, AAD encoding or version is not valid in format 1")
        return cls(version, _ENCODINGS[code])


def is_proxy_metadata(data: bytes) -> bool:
    """Whether the first byte is one that this proxy writes, in this release or another one."""
    return bool(data) and data[0] in _FORMAT_BYTES

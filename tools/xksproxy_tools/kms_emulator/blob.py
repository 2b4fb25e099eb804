"""The format of the ciphertext blob that KMS returns, and of the data that is authenticated with it.

::

    blob    = header  sealed
    header  = magic (4)  len16  key ARN  len8  backing key id
    sealed  = len8 IV  len8 tag  CTM  len16 ciphertext
    CTM     = 0xFF, or len8 ciphertext metadata         absent differs from empty

    authenticated data = header  canonical encryption context
    context = number of pairs (16), and for each, in the order of the keys' bytes:  len16 key  len16 value

Lengths are big-endian and count bytes; text is UTF-8. AWS does not publish its own format. This format has two
properties of AWS's: Decrypt finds the KMS key from the blob alone, and a blob of one KMS key is invalid for another KMS
key on the same external key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xksproxy.spec.limits import IV_BYTES, MAXIMUM_AAD_BYTES, MAXIMUM_CIPHERTEXT_METADATA_BYTES, TAG_BYTES
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

MAXIMUM_BLOB_BYTES: Final = 6144
"""The maximum length of CiphertextBlob."""

_MAGIC: Final = b"xkE\x01"
_NO_METADATA: Final = 0xFF
_LEN8: Final = 1
_LEN16: Final = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The part of a blob that is not encrypted: the KMS key and the backing key that made the blob."""

    key_arn: str
    backing_key_id: str
    """The name of the key material, 1 to 255 bytes."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A parsed ciphertext blob. ``sealed`` is the outermost layer."""

    header: Header
    sealed: Sealed


def pack(blob: Blob) -> bytes:
    """The bytes of a blob.

    Raises:
        ValueError: the blob would be longer than 6144 bytes, or the size of a part is invalid.
    """
    sealed = blob.sealed
    metadata = sealed.ciphertext_metadata
    data = b"".join(
        (
            _packed_header(blob.header),
            _counted(sealed.iv, _LEN8),
            _counted(sealed.tag, _LEN8),
            bytes([_NO_METADATA]) if metadata is None else _counted(metadata, _LEN8),
            _counted(sealed.ciphertext, _LEN16),
        )
    )
    if len(data) > MAXIMUM_BLOB_BYTES or not _is_sound(sealed):
        raise ValueError(
            f"invalid sizes for a ciphertext blob; expected those of AES-GCM, at most {MAXIMUM_BLOB_BYTES} bytes in all"
        )
    return data


def unpack(data: bytes) -> Blob:
    """Read a blob.

    Raises:
        KmsError: InvalidCiphertextException; the data is not a blob of this emulator.
    """
    reader = _Reader(data)
    try:
        if reader.take(len(_MAGIC)) != _MAGIC:
            raise _invalid()
        header = Header(reader.counted(_LEN16).decode(), reader.counted(_LEN8).decode())
        iv, tag = reader.counted(_LEN8), reader.counted(_LEN8)
        metadata = reader.counted_or_absent()
        sealed = Sealed(reader.counted(_LEN16), metadata, iv, tag)
    except (EOFError, UnicodeDecodeError):
        raise _invalid() from None
    if not reader.at_end or not _is_sound(sealed):
        raise _invalid()
    return Blob(header, sealed)


def authenticated_data(header: Header, encryption_context: Mapping[str, str]) -> bytes:
    """The data that every layer authenticates: header and encryption context, regardless of the order of the pairs.

    Raises:
        KmsError: ValidationException; the data would be longer than 8192 bytes, or a text is not Unicode.
    """
    try:
        pairs = sorted((key.encode(), value.encode()) for key, value in encryption_context.items())
    except UnicodeEncodeError:
        raise KmsError("ValidationException", "The encryption context holds text that is not Unicode.") from None
    start = _packed_header(header)
    size = len(start) + _LEN16 + sum(2 * _LEN16 + len(key) + len(value) for key, value in pairs)
    if size > MAXIMUM_AAD_BYTES:
        raise KmsError(
            "ValidationException",
            f"The encryption context is too long: with the data that AWS KMS adds, it has {size} bytes;"
            f" expected at most {MAXIMUM_AAD_BYTES}.",
        )
    counted = (_counted(key, _LEN16) + _counted(value, _LEN16) for key, value in pairs)
    return b"".join((start, len(pairs).to_bytes(_LEN16, "big"), *counted))


class _Reader:
    """Reads parts that have a length in front of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, count: int) -> bytes:
        part = self._data[self._position : self._position + count]
        if len(part) != count:
            raise EOFError
        self._position += count
        return part

    def counted(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width), "big"))

    def counted_or_absent(self) -> bytes | None:
        count = self.take(_LEN8)[0]
        return None if count == _NO_METADATA else self.take(count)


def _packed_header(header: Header) -> bytes:
    return _MAGIC + _counted(header.key_arn.encode(), _LEN16) + _counted(header.backing_key_id.encode(), _LEN8)


def _counted(part: bytes, width: int) -> bytes:
    """A part with its length in front of it. The length has ``width`` bytes."""
    try:
        return len(part).to_bytes(width, "big") + part
    except OverflowError:
        raise ValueError(f"a part of {len(part)} bytes is too long for a ciphertext blob") from None


def _is_sound(sealed: Sealed) -> bool:
    """Whether the sizes are those of AES-GCM."""
    metadata = sealed.ciphertext_metadata or b""
    fits = len(metadata) <= MAXIMUM_CIPHERTEXT_METADATA_BYTES
    return fits and len(sealed.iv) in IV_BYTES and len(sealed.tag) == TAG_BYTES


def _invalid() -> KmsError:
    return KmsError("InvalidCiphertextException", "The ciphertext was not made by AWS KMS, or is corrupted.")

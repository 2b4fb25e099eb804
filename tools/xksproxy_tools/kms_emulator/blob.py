"""The ciphertext blob that KMS gives to its callers, and the data that it authenticates.

::

    blob    = header  sealed
    header  = magic (4)  len16  key ARN  len8  backing key id
    sealed  = len8 IV  len8 tag  CTM  len16 ciphertext
    CTM     = 0xFF, or len8 ciphertext metadata         absent is not empty

    authenticated data = header  canonical encryption context
    context = number of pairs (16), and for each, in the order of the keys' bytes:  len16 key  len16 value

Lengths are big-endian and count bytes, texts are UTF-8. AWS's own layout is not published; this one carries what it
must: Decrypt needs nothing else to find the KMS key, and the ciphertext of one KMS key is none of another on the same
external key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xksproxy.spec.limits import IV_BYTES, MAXIMUM_AAD_BYTES, MAXIMUM_CIPHERTEXT_METADATA_BYTES, TAG_BYTES
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.answers import Sealed

MAXIMUM_BLOB_BYTES: Final = 6144
"""CiphertextBlob is no longer than this."""

_MAGIC: Final = b"xkE\x01"
_NO_METADATA: Final = 0xFF
_LEN8: Final = 1
_LEN16: Final = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The readable part of a blob: which KMS key, and which of its backing keys, made it."""

    key_arn: str
    backing_key_id: str
    """The name of the key material; of 1 to 255 bytes."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A ciphertext blob taken apart. ``sealed`` is the outermost layer."""

    header: Header
    sealed: Sealed


def pack(blob: Blob) -> bytes:
    """The bytes of a blob.

    Raises:
        ValueError: it would be longer than 6144 bytes, or a part is of a size that it cannot have.
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
        raise ValueError("no ciphertext blob can hold this")
    return data


def unpack(data: bytes) -> Blob:
    """Read a blob.

    Raises:
        KmsError: InvalidCiphertextException; it is none of ours.
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
    """What every layer authenticates: the header and the encryption context, whatever the order of its pairs.

    Raises:
        KmsError: ValidationException; it would be longer than 8192 bytes, or a text is no Unicode.
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
            f"The encryption context is too long: with what AWS KMS adds, it would have {size} bytes;"
            f" at most {MAXIMUM_AAD_BYTES} are possible.",
        )
    counted = (_counted(key, _LEN16) + _counted(value, _LEN16) for key, value in pairs)
    return b"".join((start, len(pairs).to_bytes(_LEN16, "big"), *counted))


class _Reader:
    """Reads a text of counted parts from its beginning."""

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
    """A part after its length, which must fit into ``width`` bytes."""
    try:
        return len(part).to_bytes(width, "big") + part
    except OverflowError:
        raise ValueError(f"a part of {len(part)} bytes has no place in a ciphertext blob") from None


def _is_sound(sealed: Sealed) -> bool:
    """Whether the sizes are those of AES-GCM."""
    metadata = sealed.ciphertext_metadata or b""
    fits = len(metadata) <= MAXIMUM_CIPHERTEXT_METADATA_BYTES
    return fits and len(sealed.iv) in IV_BYTES and len(sealed.tag) == TAG_BYTES


def _invalid() -> KmsError:
    return KmsError("InvalidCiphertextException", "The ciphertext is not one of AWS KMS, or is corrupted.")

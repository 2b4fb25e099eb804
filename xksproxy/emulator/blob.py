"""The ciphertext blob that KMS gives to its callers, and the data that it authenticates."""

from collections.abc import Mapping
from dataclasses import dataclass

from xksproxy.emulator.proxy.answers import Sealed


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
    """The bytes of a blob, at most 6144."""
    raise NotImplementedError


def unpack(data: bytes) -> Blob:
    """Read a blob.

    Raises:
        KmsError: InvalidCiphertextException; it is none of ours.
    """
    raise NotImplementedError


def authenticated_data(header: Header, encryption_context: Mapping[str, str]) -> bytes:
    """What every layer authenticates: the header and the encryption context, whatever the order of its pairs.

    Raises:
        KmsError: ValidationException; it would be longer than 8192 bytes, or a text is no Unicode.
    """
    raise NotImplementedError

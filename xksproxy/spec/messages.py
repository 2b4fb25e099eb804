"""Requests and responses of the four APIs, decoded strictly.

Fields of type ``bytes`` are Base64 in JSON (RFC 4648 section 4, padded) and raw here. Unknown members are
accepted at every level (R-REQ-7). Members of ``requestMetadata`` are checked for presence and type only (R-REQ-6).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec

from xksproxy.spec.errors import ValidationException

ENCRYPTION_ALGORITHM: Final = "AES_GCM"
"""The only ``encryptionAlgorithm`` of v1 (R-ENC-3)."""

CDIV_ALGORITHM: Final = "SHA_256"
"""The only ``ciphertextDataIntegrityValueAlgorithm`` of v1 (R-ENC-10)."""


class _Message(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """Base of all messages: names are in camelCase in JSON, and absent members are left out."""


class HealthRequestMetadata(_Message, frozen=True):
    """``requestMetadata`` of GetHealthStatus."""

    kms_request_id: str
    kms_operation: str


class KeyRequestMetadata(_Message, frozen=True):
    """``requestMetadata`` of GetKeyMetadata."""

    aws_principal_arn: str
    kms_operation: str
    kms_request_id: str
    kms_key_arn: str | None = None
    kms_via_service: str | None = None
    aws_source_vpc: str | None = None
    aws_source_vpce: str | None = None


class CryptoRequestMetadata(_Message, frozen=True):
    """``requestMetadata`` of Encrypt and Decrypt."""

    aws_principal_arn: str
    kms_key_arn: str
    kms_operation: str
    kms_request_id: str
    kms_via_service: str | None = None
    aws_source_vpc: str | None = None
    aws_source_vpce: str | None = None


RequestMetadata = HealthRequestMetadata | KeyRequestMetadata | CryptoRequestMetadata


class GetHealthStatusRequest(_Message, frozen=True):
    """Section "GetHealthStatus" of the API."""

    request_metadata: HealthRequestMetadata


class GetKeyMetadataRequest(_Message, frozen=True):
    """Section "GetKeyMetadata" of the API."""

    request_metadata: KeyRequestMetadata


class EncryptRequest(_Message, frozen=True):
    """Section "Encrypt" of the API."""

    request_metadata: CryptoRequestMetadata
    plaintext: bytes
    encryption_algorithm: str
    additional_authenticated_data: bytes | None = None
    ciphertext_data_integrity_value_algorithm: str | None = None

    def __repr__(self) -> str:
        return "<EncryptRequest>"


class DecryptRequest(_Message, frozen=True):
    """Section "Decrypt" of the API."""

    request_metadata: CryptoRequestMetadata
    ciphertext: bytes
    encryption_algorithm: str
    initialization_vector: bytes
    authentication_tag: bytes
    additional_authenticated_data: bytes | None = None
    ciphertext_metadata: bytes | None = None


class EkmInstance(_Message, frozen=True):
    """One entry of ``ekmFleetDetails``."""

    id: str
    model: str
    health_status: str


class GetHealthStatusResponse(_Message, frozen=True):
    """R-HLTH-1."""

    xks_proxy_fleet_size: int
    xks_proxy_vendor: str
    xks_proxy_model: str
    ekm_vendor: str
    ekm_fleet_details: list[EkmInstance]


class GetKeyMetadataResponse(_Message, frozen=True):
    """R-META-1."""

    key_spec: str
    key_usage: list[str]
    key_status: str


class EncryptResponse(_Message, frozen=True):
    """R-ENC-4."""

    authentication_tag: bytes
    ciphertext: bytes
    initialization_vector: bytes
    ciphertext_metadata: bytes | None = None
    ciphertext_data_integrity_value: bytes | None = None


class DecryptResponse(_Message, frozen=True):
    """R-DEC-5."""

    plaintext: bytes

    def __repr__(self) -> str:
        return "<DecryptResponse>"


class ErrorResponse(_Message, frozen=True):
    """The body of every error (R-ERR-4)."""

    error_name: str
    error_message: str


Response = GetHealthStatusResponse | GetKeyMetadataResponse | EncryptResponse | DecryptResponse
Request = GetHealthStatusRequest | GetKeyMetadataRequest | EncryptRequest | DecryptRequest
Received = TypeVar("Received", GetHealthStatusRequest, GetKeyMetadataRequest, EncryptRequest, DecryptRequest)

_DECODERS: Final = {
    message: msgspec.json.Decoder(message)
    for message in (GetHealthStatusRequest, GetKeyMetadataRequest, EncryptRequest, DecryptRequest)
}
_ENCODER: Final = msgspec.json.Encoder()


def decode(message: type[Received], body: bytes) -> Received:
    """Decode a request body.

    Raises:
        ValidationException: it is not JSON, or a field is missing, of the wrong type or not Base64. The message names
            the field and never quotes a value.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the UTF-8 of members that it skips
        return _DECODERS[message].decode(body)  # type: ignore[return-value]  # the table maps each type to its decoder
    except msgspec.ValidationError as error:
        raise ValidationException(f"The request body does not fit the API: {error}") from None
    except RecursionError:
        raise ValidationException("The request body is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValidationException("The request body is not JSON: a string in it is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise ValidationException(f"The request body is not JSON: {error}") from None


def encode(message: Request | Response | ErrorResponse) -> bytes:
    """Encode a body as JSON on one line, without spaces."""
    return _ENCODER.encode(message)


_LOGGED_MEMBERS: Final = 32
_NAME_CHARACTERS: Final = 64
_LOGGED_CHARACTERS: Final = 2048
_Name = Annotated[str, msgspec.Meta(max_length=_NAME_CHARACTERS)]
_Text = Annotated[str, msgspec.Meta(max_length=_LOGGED_CHARACTERS)]
_KNOWN_MEMBERS: Final = tuple(field.encode_name for field in msgspec.structs.fields(CryptoRequestMetadata))


class _Loggable(msgspec.Struct, rename="camel"):
    request_metadata: Annotated[dict[_Name, _Text], msgspec.Meta(max_length=_LOGGED_MEMBERS)]


class _Received(msgspec.Struct, rename="camel"):
    request_metadata: dict[str, msgspec.Raw]


_LOGGABLE: Final = msgspec.json.Decoder(_Loggable)
_RECEIVED: Final = msgspec.json.Decoder(_Received)


class ReceivedMetadata(NamedTuple):
    """The members of a request's ``requestMetadata``, within limits."""

    members: Mapping[str, str] = MappingProxyType({})
    left_out: int = 0
    """Number of members that the limits left out."""


def received_metadata(body: bytes) -> ReceivedMetadata:
    """Return the members of a decoded body's ``requestMetadata`` as text, for the log (R-LOG-1, R-REQ-7).

    The seven members that the API names are always included. Unknown members follow, up to 32 members in all. Names are
    cut at 64 characters and values at 2048. A value that is not a string is given as its JSON.
    """
    try:
        return ReceivedMetadata(_LOGGABLE.decode(body).request_metadata)
    except msgspec.ValidationError:
        received = _RECEIVED.decode(body).request_metadata
    known = [name for name in _KNOWN_MEMBERS if name in received]
    unknown = (name for name in received if name not in known)
    members: dict[str, str] = {}
    for name in (*known, *unknown):
        if len(members) == _LOGGED_MEMBERS:
            break
        # Of two names that begin with the same 64 characters, the first is kept.
        members.setdefault(name[:_NAME_CHARACTERS], _as_text(received[name])[:_LOGGED_CHARACTERS])
    return ReceivedMetadata(members, len(received) - len(members))


def _as_text(value: msgspec.Raw) -> str:
    raw = bytes(value)
    return msgspec.json.decode(raw, type=str) if raw[:1] == b'"' else raw.decode("utf-8", "replace")

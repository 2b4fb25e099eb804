"""Checks the responses of a proxy as strictly as KMS does."""

import hmac
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from xksproxy.aead.cdiv import integrity_value
from xksproxy.spec.limits import (
    IV_BYTES,
    MAXIMUM_CIPHERTEXT_METADATA_BYTES,
    MAXIMUM_FLEET_DETAILS,
    MAXIMUM_KEY_USAGES,
    TAG_BYTES,
)
from xksproxy.spec.messages import (
    DecryptResponse,
    EncryptResponse,
    GetHealthStatusResponse,
    GetKeyMetadataResponse,
)
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

UNAVAILABLE: Final = "UNAVAILABLE"
"""``healthStatus`` of an external key manager instance that cannot serve."""

_HEALTH_STATES: Final = frozenset({"ACTIVE", "DEGRADED", UNAVAILABLE})
_OUTCOME_BY_ERROR_NAME: Final = {outcome.value: outcome for outcome in Outcome if outcome.value.endswith("Exception")}
_SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Sealed:
    """The output of an AES-GCM encryption. Decryption needs all of it."""

    ciphertext: bytes
    ciphertext_metadata: bytes | None
    """At most 20 bytes, defined by the proxy. None means absent, which differs from empty."""

    iv: bytes
    """12 or 16 bytes."""

    tag: bytes
    """16 bytes."""


Answer = TypeVar("Answer", GetHealthStatusResponse, GetKeyMetadataResponse, EncryptResponse, DecryptResponse)

_DECODERS: Final = {
    answer: msgspec.json.Decoder(answer)
    for answer in (GetHealthStatusResponse, GetKeyMetadataResponse, EncryptResponse, DecryptResponse)
}


class _Error(msgspec.Struct, rename="camel"):
    """The error members of a response; ``errorMessage`` is optional (section 10 of the API)."""

    error_name: str | None = None
    error_message: Any = None


_ERROR: Final = msgspec.json.Decoder(_Error)


def read_answer(answer: type[Answer], status: int, body: bytes) -> Answer:
    """Read a response. With an ``errorName`` it is an error, regardless of the HTTP status (R-ERR-3).

    Raises:
        ProxyFailure: the error of the proxy; or MALFORMED, if the response is not JSON, has an error name that the API
            does not define, lacks a member or has one of a wrong type.
    """
    try:
        error = _ERROR.decode(body)
        if error.error_name is not None:
            raise _failure(error.error_name, error.error_message, status)
        if status != HTTPStatus.OK:
            raise malformed(f"HTTP {status} without errorName")
        return _DECODERS[answer].decode(body)  # type: ignore[return-value]  # the table has the decoder of this type
    except msgspec.ValidationError as error:
        raise malformed(f"HTTP {status}, and the body does not fit the API: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed(f"HTTP {status}, and the body is not JSON") from None


def check_health(health: GetHealthStatusResponse) -> GetHealthStatusResponse:
    """Check R-HLTH-1, and return the response.

    Raises:
        ProxyFailure: MALFORMED; or ALL_UNAVAILABLE, if all external key manager instances are UNAVAILABLE (R-HLTH-8).
    """
    instances = health.ekm_fleet_details
    if health.xks_proxy_fleet_size < 1:
        raise malformed(f"xksProxyFleetSize is {health.xks_proxy_fleet_size}; expected more than 0")
    if not 1 <= len(instances) <= MAXIMUM_FLEET_DETAILS:
        raise malformed(f"ekmFleetDetails has {len(instances)} entries; expected 1 to {MAXIMUM_FLEET_DETAILS}")
    for instance in instances:
        if instance.health_status not in _HEALTH_STATES:
            raise malformed(
                f"healthStatus of {_shown(instance.id)} is {_shown(instance.health_status)};"
                " expected ACTIVE, DEGRADED or UNAVAILABLE"
            )
    if all(instance.health_status == UNAVAILABLE for instance in instances):
        names = ", ".join(_shown(instance.id) for instance in instances)
        raise ProxyFailure(Outcome.ALL_UNAVAILABLE, f"every external key manager instance is UNAVAILABLE: {names}")
    return health


def check_key(key: GetKeyMetadataResponse) -> GetKeyMetadataResponse:
    """Check R-META-4, and return the response.

    Raises:
        ProxyFailure: MALFORMED.
    """
    if len(key.key_usage) > MAXIMUM_KEY_USAGES:
        raise malformed(f"keyUsage has {len(key.key_usage)} values; expected at most {MAXIMUM_KEY_USAGES}")
    return key


def check_encryption(answer: EncryptResponse, plaintext: bytes, aad: bytes) -> Sealed:
    """Check sizes and the integrity value (R-ENC-4 to R-ENC-9), and return the output of the encryption.

    Raises:
        ProxyFailure: MALFORMED.
    """
    metadata = answer.ciphertext_metadata
    sealed = Sealed(answer.ciphertext, metadata, answer.initialization_vector, answer.authentication_tag)
    if len(sealed.ciphertext) != len(plaintext):
        raise malformed(
            f"ciphertext has {len(sealed.ciphertext)} bytes; expected {len(plaintext)}, the length of the plaintext"
        )
    if len(sealed.iv) not in IV_BYTES:
        raise malformed(f"initializationVector has {len(sealed.iv)} bytes; expected 12 or 16")
    if len(sealed.tag) != TAG_BYTES:
        raise malformed(f"authenticationTag has {len(sealed.tag)} bytes; expected {TAG_BYTES}")
    if metadata is not None and len(metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        raise malformed(f"ciphertextMetadata has {len(metadata)} bytes; expected at most 20")
    _check_integrity(answer.ciphertext_data_integrity_value, sealed, aad)
    return sealed


def check_decryption(answer: DecryptResponse, ciphertext: bytes) -> bytes:
    """Check that plaintext and ciphertext have the same length (R-DEC-5), and return the plaintext.

    Raises:
        ProxyFailure: MALFORMED.
    """
    if len(answer.plaintext) != len(ciphertext):
        raise malformed(
            f"plaintext has {len(answer.plaintext)} bytes; expected {len(ciphertext)}, the length of the ciphertext"
        )
    return answer.plaintext


def malformed(detail: str) -> ProxyFailure:
    """The failure for a response that violates the API."""
    return ProxyFailure(Outcome.MALFORMED, detail)


def _check_integrity(value: bytes | None, sealed: Sealed, aad: bytes) -> None:
    """R-CDIV-5, R-CDIV-7."""
    if value is None:
        raise malformed("ciphertextDataIntegrityValue is missing; it was requested")
    expected = integrity_value(
        aad=aad,
        ciphertext_metadata=sealed.ciphertext_metadata or b"",
        iv=sealed.iv,
        ciphertext=sealed.ciphertext,
        tag=sealed.tag,
    )
    if not hmac.compare_digest(value, expected):
        raise malformed("ciphertextDataIntegrityValue is wrong")


def _failure(name: str, message: object, status: int) -> ProxyFailure:
    outcome = _OUTCOME_BY_ERROR_NAME.get(name)
    if outcome is None:
        return malformed(f"HTTP {status} with the unknown errorName {_shown(name)}")
    said = f"HTTP {status} {name}"
    return ProxyFailure(outcome, said if message is None else f"{said}: {_shown(message)}")


def _shown(value: object) -> str:
    """A value from the proxy, of limited length and without line breaks, for logs."""
    return str(value)[:_SHOWN_CHARACTERS].encode("unicode_escape").decode("ascii")

"""Checks that Encrypt and Decrypt share: the request first, then the key, and only then the HSM."""

from xksproxy.deadline import Deadline
from xksproxy.keystore.keymap import ExternalKey, KeyMap
from xksproxy.operations.engine import Engine
from xksproxy.operations.translate import hsm_errors_translated
from xksproxy.spec.errors import InvalidStateException, UnsupportedOperationException, ValidationException
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MAXIMUM_PLAINTEXT_BYTES
from xksproxy.spec.messages import ENCRYPTION_ALGORITHM


def require_algorithm(algorithm: str) -> None:
    """Raise ValidationException for anything but AES_GCM (R-ENC-3, Q-4)."""
    if algorithm != ENCRYPTION_ALGORITHM:
        raise ValidationException(f"encryptionAlgorithm must be {ENCRYPTION_ALGORITHM}")


def require_supported_sizes(text_field: str, text: bytes, aad: bytes) -> None:
    """Raise UnsupportedOperationException above what this proxy supports (R-ENC-12). Sizes in bytes, decoded."""
    for field, value, maximum in (
        (text_field, text, MAXIMUM_PLAINTEXT_BYTES),
        ("additionalAuthenticatedData", aad, MAXIMUM_AAD_BYTES),
    ):
        if len(value) > maximum:
            raise UnsupportedOperationException(
                f"{field} has {len(value)} bytes; this proxy supports at most {maximum}"
            )


async def require_enabled_key(keys: KeyMap, key_id: str, engine: Engine, deadline: Deadline) -> ExternalKey:
    """The key of an id, if the key store exposes it and does not disable it.

    Raises:
        KeyNotFoundException: it is not exposed, or is disabled and not on the token either.
        InvalidStateException: it is disabled (Q-5).
    """
    key = keys.resolve(key_id)
    if key.disabled:
        with hsm_errors_translated():
            await engine.describe_key(key.label, deadline)
        raise InvalidStateException("The external key is disabled in the proxy's configuration")
    return key

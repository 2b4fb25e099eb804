"""The checks that Encrypt and Decrypt share. They need no key, so they are made first."""

from xksproxy.spec.errors import UnsupportedOperationException, ValidationException
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MAXIMUM_PLAINTEXT_BYTES
from xksproxy.spec.messages import ENCRYPTION_ALGORITHM


def require_algorithm(algorithm: str) -> None:
    """Raise ValidationException if the algorithm is not AES_GCM (R-ENC-3, Q-4)."""
    if algorithm != ENCRYPTION_ALGORITHM:
        raise ValidationException(f"encryptionAlgorithm must be {ENCRYPTION_ALGORITHM}")


def require_supported_sizes(text_field: str, text: bytes, aad: bytes) -> None:
    """Raise UnsupportedOperationException if a field is too large (R-ENC-12). Sizes are in decoded bytes."""
    for field, value, maximum in (
        (text_field, text, MAXIMUM_PLAINTEXT_BYTES),
        ("additionalAuthenticatedData", aad, MAXIMUM_AAD_BYTES),
    ):
        if len(value) > maximum:
            raise UnsupportedOperationException(
                f"{field} has {len(value)} bytes; this proxy supports at most {maximum}"
            )

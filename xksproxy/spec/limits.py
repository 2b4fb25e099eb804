"""The limits of the XKS proxy API, in bytes before Base64 encoding unless the name says otherwise."""

from typing import Final

MINIMUM_PLAINTEXT_BYTES: Final = 4300
"""Every proxy must accept this much (R-ENC-1, R-DEC-1)."""

MAXIMUM_PLAINTEXT_BYTES: Final = 8192
"""This proxy accepts this much. Above it, it answers UnsupportedOperationException (R-ENC-12)."""

MAXIMUM_AAD_BYTES: Final = 8192
"""This proxy accepts this much, as every proxy must (R-ENC-2)."""

MAXIMUM_BODY_BYTES: Final = 64 * 1024
"""A larger request body is refused without being read. The largest legal body is about 27 KiB (R-REQ-10)."""

IV_BYTES: Final = frozenset({12, 16})
"""Allowed lengths of an initialization vector (R-ENC-7, R-DEC-2)."""

TAG_BYTES: Final = 16
"""The GCM authentication tag is never truncated (R-ENC-4, R-DEC-2)."""

MAXIMUM_CIPHERTEXT_METADATA_BYTES: Final = 20
"""R-ENC-8."""

MAXIMUM_ERROR_MESSAGE_CHARACTERS: Final = 511
"""An error message has fewer than 512 characters (R-ERR-2)."""

MAXIMUM_KEY_ID_CHARACTERS: Final = 128
"""R-URI-6."""

MAXIMUM_URI_PATH_CHARACTERS: Final = 128
"""R-URI-2: the key store's path, ``/kms/xks/v1`` included."""

MAXIMUM_URI_CHARACTERS: Final = 256
"""R-URI-4: scheme, host and path together."""

MAXIMUM_KEY_USAGES: Final = 10
"""R-META-4."""

MAXIMUM_FLEET_DETAILS: Final = 10
"""R-HLTH-1."""

KMS_TIMEOUT_MS: Final = 250
"""How long KMS waits for an answer (R-TIME-1)."""

CLOCK_SKEW_SECONDS: Final = 300
"""Authentication fails if the time of the request differs from the clock by more than this (R-AUTH-10)."""

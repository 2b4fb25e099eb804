"""The answers of a proxy, checked as strictly as KMS checks them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sealed:
    """What an AES-GCM encryption gave; all of it is needed to decrypt."""

    ciphertext: bytes
    ciphertext_metadata: bytes | None
    """At most 20 bytes of the proxy's own; None, which is not the same as empty, where it gave none."""

    iv: bytes
    """12 or 16 bytes."""

    tag: bytes
    """16 bytes."""

"""Keys and ciphertexts, as the engine and its callers exchange them. Nothing here depends on PKCS#11."""

from dataclasses import dataclass
from typing import Final

import msgspec

from xksproxy.config.object_names import ObjectName

CANARY_BYTES: Final = 16
"""The length of the random bytes of a canary."""


class Sealed(msgspec.Struct, frozen=True):
    """The result of an encryption: IV, ciphertext and 16-byte tag."""

    iv: bytes
    ciphertext: bytes
    tag: bytes


class KeyFingerprint(msgspec.Struct, frozen=True):
    """Identifies the value of a key without disclosing it. It is kept on disk.

    Two keys are the same if they have the same check value. If one of them has no check value, they are the same if the
    key decrypts the canary. A key that can be compared in neither way is refused.
    """

    check_value: bytes | None
    """CKA_CHECK_VALUE; None if the token has none."""

    canary: Sealed | None
    """``CANARY_BYTES`` random bytes that the key encrypted; None if the key may not both encrypt and decrypt."""

    removed: bool = False
    """Whether the key was removed from the tokens on purpose, so that nobody misses it."""


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A key's label and CKA_ID, its type and size such as ``AES_256``, and what its attributes allow."""

    label: str
    spec: str
    usages: tuple[str, ...]
    sensitive: bool
    extractable: bool
    check_value: bytes | None = None
    """CKA_CHECK_VALUE: three bytes that identify the key's value without disclosing it; None if the token has none."""

    object_id: bytes | None = None
    """CKA_ID; None if it is empty or the token has none."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the key: by its label, by its CKA_ID, and by both."""
        by_label = str(ObjectName(self.label))
        if self.object_id is None:
            return (by_label,)
        return by_label, str(ObjectName(None, self.object_id)), str(ObjectName(self.label, self.object_id))

    @property
    def distinction(self) -> str:
        """A text for messages that distinguishes it from other keys of the same name."""
        object_id = f"CKA_ID {self.object_id.hex()}" if self.object_id else "no CKA_ID"
        check_value = f", check value {self.check_value.hex()}" if self.check_value else ""
        return f"label {self.label!r} with {object_id} ({self.spec}{check_value})"

    @property
    def is_aes_256(self) -> bool:
        """Whether it is an AES-256 secret key, the only kind that the API uses (R-REQ-9)."""
        return self.spec == "AES_256"

    @property
    def can_encrypt(self) -> bool:
        """CKA_ENCRYPT."""
        return "ENCRYPT" in self.usages

    @property
    def can_decrypt(self) -> bool:
        """CKA_DECRYPT."""
        return "DECRYPT" in self.usages


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key to use: its name on the tokens, and the limits of its use."""

    label: str
    """Its label, or the text of another :class:`ObjectName`."""

    hedge_after: float | None = None
    """Seconds without an answer after which the call is also sent to a second HSM."""

    maximum_encryptions: int | None = None
    """The number of encryptions that it may make on this machine."""

"""Keys and ciphertexts as the engine and its callers exchange them. No PKCS#11 here."""

from dataclasses import dataclass

import msgspec


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
    """Random bytes that the key encrypted; None if the key may not both encrypt and decrypt."""


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A key's label, its type and size such as ``AES_256``, and what its attributes allow."""

    label: str
    spec: str
    usages: tuple[str, ...]
    sensitive: bool
    extractable: bool
    check_value: bytes | None = None
    """CKA_CHECK_VALUE: three bytes that identify the key's value without disclosing it; None if the token has none."""

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
    """A key to use: its label on the tokens, and the limits of its use."""

    label: str
    hedge_after: float | None = None
    """After so many seconds without an answer, the call is also sent to a second HSM."""

    maximum_encryptions: int | None = None
    """The number of encryptions that it may make on this machine."""

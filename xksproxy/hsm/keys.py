"""Keys and ciphertexts as the engine and its callers exchange them. No PKCS#11 here."""

from dataclasses import dataclass

import msgspec


class Sealed(msgspec.Struct, frozen=True):
    """What an encryption gives: the IV it used, the ciphertext and the 16-byte tag."""

    iv: bytes
    ciphertext: bytes
    tag: bytes


class KeyFingerprint(msgspec.Struct, frozen=True):
    """What tells a key from every other without disclosing it. It is kept on disk.

    Two keys are the same if both tell the same check value; or, where one tells none, if it decrypts the canary. A key
    that can be held against neither is refused.
    """

    check_value: bytes | None
    """CKA_CHECK_VALUE; None where the token tells none."""

    canary: Sealed | None
    """Random bytes that the key encrypted; None where it does not do both."""


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A key's label, its type and size such as ``AES_256``, and what its attributes allow."""

    label: str
    spec: str
    usages: tuple[str, ...]
    sensitive: bool
    extractable: bool
    check_value: bytes | None = None
    """CKA_CHECK_VALUE: three bytes that tell keys apart without disclosing them; None where the token has none."""

    @property
    def is_aes_256(self) -> bool:
        """Whether it is the kind of key that the API works with (R-REQ-9)."""
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
    """A key to be used: its label on the tokens, and what its use is bound to."""

    label: str
    hedge_after: float | None = None
    """Seconds after which a slow call is sent to a second HSM too."""

    maximum_encryptions: int | None = None
    """Encryptions it may make on this machine."""

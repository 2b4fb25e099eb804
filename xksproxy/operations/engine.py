"""The interface of the HSM engine that the operations use."""

from collections.abc import Sequence
from typing import Protocol

from xksproxy.deadline import Deadline
from xksproxy.hsm.instance.health import InstanceHealth
from xksproxy.hsm.keys import KeyDescription, Sealed, TokenKey


class Engine(Protocol):
    """Operations with keys by label, on any HSM of a key store.

    Every method that takes a deadline raises HsmError if the call fails or is not finished by the deadline.
    """

    async def encrypt(self, key: TokenKey, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        """Encrypt with AES-256-GCM and a new IV."""

    async def encrypt_verified(
        self, key: TokenKey, plaintext: bytes, aad: bytes, integrity_prefix: bytes, deadline: Deadline
    ) -> tuple[Sealed, bytes]:
        """Encrypt, compute the integrity value, then decrypt the output and compare the plaintexts (R-CDIV-6)."""

    async def decrypt(self, key: TokenKey, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        """Decrypt with AES-256-GCM."""

    def has_seen(self, label: str) -> bool:
        """Whether the last listing of all keys had a key with this label."""

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """Read type, size and usages of a key from an HSM."""

    def health(self) -> Sequence[InstanceHealth]:
        """Return the state of each HSM, from background checks of the last minute."""

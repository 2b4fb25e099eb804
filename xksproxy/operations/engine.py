"""What the operations ask of the HSM engine."""

from collections.abc import Callable, Sequence
from typing import Protocol

from xksproxy.deadline import Deadline
from xksproxy.hsm.instance.health import InstanceHealth
from xksproxy.hsm.instance.verified_encrypt import IntegrityValue
from xksproxy.hsm.keys import KeyDescription, Sealed, TokenKey


class Engine(Protocol):
    """Keys by label, wherever they are. Every method raises an HsmError for what it cannot do by the deadline."""

    async def encrypt(self, key: TokenKey, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        """AES-256-GCM with a fresh IV."""

    async def encrypt_verified(
        self,
        key: TokenKey,
        plaintext: bytes,
        aad: bytes,
        integrity_of: Callable[[Sealed], IntegrityValue],
        deadline: Deadline,
    ) -> tuple[Sealed, IntegrityValue]:
        """The same, then what ``integrity_of`` makes of the result, then the proof that it decrypts to the plaintext."""

    async def decrypt(self, key: TokenKey, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        """The inverse of encrypt."""

    def has_seen(self, label: str) -> bool:
        """Whether a key of this label was there when the keys were last listed."""

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """Type, size and usages, read now."""

    def health(self) -> Sequence[InstanceHealth]:
        """The state of each HSM, from checks made in the background within the last minute."""

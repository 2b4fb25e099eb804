"""What the operations ask of the HSM engine."""

from collections.abc import Sequence
from typing import Protocol

from xksproxy.deadline import Deadline
from xksproxy.hsm.instance.health import InstanceHealth
from xksproxy.hsm.keys import KeyDescription, Sealed, TokenKey


class Engine(Protocol):
    """Keys by label, wherever they are. Every method raises an HsmError for what it cannot do by the deadline."""

    async def encrypt(self, key: TokenKey, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        """AES-256-GCM with a fresh IV."""

    async def encrypt_verified(
        self, key: TokenKey, plaintext: bytes, aad: bytes, integrity_prefix: bytes, deadline: Deadline
    ) -> tuple[Sealed, bytes]:
        """The same with the integrity value of the output, which is then decrypted and compared (R-CDIV-6)."""

    async def decrypt(self, key: TokenKey, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        """The inverse of encrypt."""

    def has_seen(self, label: str) -> bool:
        """Whether a key of this label was there when the keys were last listed."""

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """Type, size and usages, read now."""

    def health(self) -> Sequence[InstanceHealth]:
        """The state of each HSM, from checks made in the background within the last minute."""

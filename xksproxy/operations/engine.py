"""What the operations ask of the HSM engine."""

from typing import Protocol

from xksproxy.deadline import Deadline
from xksproxy.hsm.keys import KeyDescription
from xksproxy.hsm.module import TokenInfo
from xksproxy.hsm.session import Sealed


class Engine(Protocol):
    """Keys by label, in one token today. Every method raises an HsmError for what it cannot do by the deadline."""

    id: str

    @property
    def info(self) -> TokenInfo | None:
        """What the token says of itself, once it was reached."""

    async def encrypt(self, label: str, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        """AES-256-GCM with a fresh IV."""

    async def decrypt(self, label: str, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        """The inverse of encrypt."""

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """Type, size and usages, read now."""

    async def self_test(self, deadline: Deadline) -> None:
        """Encrypt and decrypt under a key of the engine's own."""

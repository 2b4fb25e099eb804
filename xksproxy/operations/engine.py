"""What the operations ask of the HSM engine."""

from collections.abc import Sequence
from typing import Protocol

from xksproxy.deadline import Deadline
from xksproxy.hsm.health import InstanceHealth
from xksproxy.hsm.keys import KeyDescription
from xksproxy.hsm.session import Sealed


class Engine(Protocol):
    """Keys by label, wherever they are. Every method raises an HsmError for what it cannot do by the deadline.

    ``hedge_after``: seconds after which a slow call is sent to a second HSM too.
    """

    async def encrypt(
        self, label: str, plaintext: bytes, aad: bytes, deadline: Deadline, hedge_after: float | None
    ) -> Sealed:
        """AES-256-GCM with a fresh IV."""

    async def decrypt(
        self, label: str, sealed: Sealed, aad: bytes, deadline: Deadline, hedge_after: float | None
    ) -> bytes:
        """The inverse of encrypt."""

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """Type, size and usages, read now."""

    def health(self) -> Sequence[InstanceHealth]:
        """The state of each HSM, from checks made in the background within the last minute."""

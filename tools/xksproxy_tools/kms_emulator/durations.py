"""How long a key store takes to connect and to disconnect."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Durations:
    """How long transitions take, in seconds; with AWS about five minutes each. What fails to connect, fails at once."""

    connect: float = 300.0
    disconnect: float = 300.0


LIKE_AWS: Final = Durations()

FAST: Final = Durations(0.0, 0.0)
"""For whoever does not want to wait."""

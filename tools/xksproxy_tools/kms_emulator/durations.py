"""The time that a key store takes to connect and to disconnect."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Durations:
    """The length of transitions in seconds; about five minutes with AWS. Failures have no delay."""

    connect: float = 300.0
    disconnect: float = 300.0


AWS_DURATIONS: Final = Durations()

NO_DURATIONS: Final = Durations(0.0, 0.0)
"""No delay."""

"""The plan of a measurement, with its limits."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final, Generic, TypeVar

from xksproxy.client.target import Target
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.spec.uri import Operation

Choice = TypeVar("Choice")

MAXIMUM_RATE: Final = 50_000
MAXIMUM_CONNECTIONS: Final = 10_000
MAXIMUM_SECONDS: Final = 3600
MAXIMUM_GIVE_UP_SECONDS: Final = 60
MAXIMUM_REQUESTS: Final = 5_000_000
"""The limit for one phase; each request takes 37 bytes of memory."""

LATE_SECONDS: Final = KMS_TIMEOUT_MS / 1000
"""KMS treats a request without a response by then as failed (R-TIME-1)."""


class PlanError(ValueError):
    """A plan is invalid; the text says what was expected."""


class Arrivals(Enum):
    """The distribution of due times."""

    FIXED = "fixed"
    """Equal intervals."""

    POISSON = "poisson"
    """Independent requests, as from many callers."""


@dataclass(frozen=True, slots=True)
class Weighted(Generic[Choice]):
    """Choices and their weights."""

    items: tuple[tuple[Choice, float], ...]

    def distribute(self, count: int, random: Random) -> list[Choice]:
        """``count`` choices in random order; the number of each is proportional to its weight, to within one."""
        total = sum(weight for _, weight in self.items)
        choices: list[Choice] = []
        seen = 0.0
        for choice, weight in self.items:
            seen += weight
            choices += [choice] * (round(count * seen / total) - len(choices))
        random.shuffle(choices)
        return choices

    def __str__(self) -> str:
        return ",".join(
            f"{choice.value if isinstance(choice, Enum) else choice}={weight:g}" for choice, weight in self.items
        )


def parse_weighted(text: str, choice: Callable[[str], Choice], expected: str) -> Weighted[Choice]:
    """Read ``CHOICE[=WEIGHT],…``; a weight left out is 1.

    Raises:
        PlanError: the form is wrong, or no weight is positive.
    """
    items: list[tuple[Choice, float]] = []
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            items.append((choice(name.strip()), float(weight or 1)))
        except ValueError:
            raise PlanError(f"{part.strip()!r} is invalid; expected {expected}") from None
    if any(not 0 <= weight < float("inf") for _, weight in items) or not any(weight for _, weight in items):
        raise PlanError(f"{text!r}: expected weights that are not negative, at least one above 0")
    return Weighted(tuple(items))


def parse_mix(text: str) -> Weighted[Operation]:
    """Read ``encrypt=45,decrypt=45,metadata=5,health=5``."""
    return parse_weighted(text, Operation, "OPERATION=WEIGHT,… of encrypt, decrypt, metadata and health")


def parse_sizes(text: str, maximum: int) -> Weighted[int]:
    """Read ``BYTES[=WEIGHT],…``, each size from 0 to ``maximum``."""
    sizes = parse_weighted(text, int, "BYTES or BYTES=WEIGHT,…, such as 236=95,4300=5")
    if not all(0 <= size <= maximum for size, _ in sizes.items):
        raise PlanError(f"{text!r}: expected sizes from 0 to {maximum} bytes")
    return sizes


USUAL_MIX: Final = parse_mix("encrypt=45,decrypt=45,metadata=5,health=5")
"""Mostly data keys, encrypted and decrypted."""


@dataclass(frozen=True, slots=True)
class Destination:
    """An external key of a key store."""

    target: Target
    key_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One measurement. Times are in seconds."""

    rate: float = 1800.0
    """Requests per second of the open loop. AWS demands 1800 of a proxy (R-TIME-3)."""

    duration: float = 60.0
    warm_up: float = 5.0
    """The same load before the measurement, not recorded."""

    connections: int = 64
    arrivals: Arrivals = Arrivals.FIXED
    closed: bool = False
    """Each connection sends its next request after the last response. This finds the highest throughput, but hides
    stalls."""

    mix: Weighted[Operation] = USUAL_MIX
    plaintext_bytes: Weighted[int] = Weighted(((236, 95), (4300, 5)))
    """Plaintext sizes of KMS: the inner encryption of a data key, and of the largest text."""

    aad_bytes: Weighted[int] = Weighted(((160, 90), (0, 10)))
    """0 means no AAD."""

    cdiv_percent: float = 100.0
    """Percentage of Encrypts that request a ciphertext data integrity value."""

    give_up_after: float = 2.0
    """The time limit of a response; then its connection is replaced."""

    seed: int = 1

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            PlanError: a value is outside them.
        """
        bounds = (
            ("the rate", self.rate, 0, MAXIMUM_RATE),
            ("the duration", self.duration, 0, MAXIMUM_SECONDS),
            ("the warm-up", self.warm_up, -1, MAXIMUM_SECONDS),
            ("the number of connections", self.connections, 0, MAXIMUM_CONNECTIONS),
            ("the share with a CDIV", self.cdiv_percent, -1, 100),
            ("the time to give up after", self.give_up_after, LATE_SECONDS, MAXIMUM_GIVE_UP_SECONDS),
        )
        for name, value, above, maximum in bounds:
            if not above < value <= maximum:
                raise PlanError(f"{name} is {value:g}; expected more than {above:g} and at most {maximum:g}")
        if not self.closed and self.rate * max(self.duration, self.warm_up) > MAXIMUM_REQUESTS:
            raise PlanError(f"{self.rate:g} requests a second for so long is more than {MAXIMUM_REQUESTS} in all")

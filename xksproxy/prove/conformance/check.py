"""What a check is, and the ways in which it can end."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from xksproxy.prove.conformance.subject import Subject

Value = TypeVar("Value")


class Level(Enum):
    """How binding a requirement is (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Outcome(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    NOT_RUN = "not run"


class CheckFailed(Exception):
    """The proxy did something else than what the requirement asks for. Texts show no secret and no plaintext."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class NotApplicable(Exception):
    """The check cannot be made here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question to a proxy."""

    id: str
    """A slug, unique over all chapters; ``--only`` selects by it, and it stays the same over releases."""

    requirements: tuple[str, ...]
    """The ids of the requirements that a failure breaks."""

    level: Level
    title: str
    """What is right, as a statement."""

    run: Callable[["Subject"], str | None]
    """Asks. Returns what is worth telling about a pass, or None.

    Raises:
        CheckFailed: the answer is no.
        NotApplicable: it cannot be asked.
    """


@dataclass(frozen=True, slots=True)
class Chapter:
    """The checks of one part of the API, in the order in which they are made."""

    name: str
    title: str
    checks: tuple[Check, ...]


def expect(holds: object, expected: str, got: object) -> None:
    """Fail the check unless something holds."""
    if not holds:
        raise CheckFailed(expected, str(got))


def required(value: Value | None, option: str) -> Value:
    """What a check needs, which an option of the command names."""
    if value is None:
        raise NotApplicable(f"{option} was not given")
    return value

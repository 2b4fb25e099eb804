"""The ways in which a check can end, and how it says so."""

from enum import Enum
from typing import TypeVar

Value = TypeVar("Value")


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


class CheckNotMade(Exception):
    """Something else than the proxy kept the check from being made; the text says what."""


def expect(holds: object, expected: str, got: object) -> None:
    """Fail the check unless something holds."""
    if not holds:
        raise CheckFailed(expected, str(got))


def required(value: Value | None, option: str) -> Value:
    """What a check needs, which an option of the command names."""
    if value is None:
        raise NotApplicable(f"{option} was not given")
    return value

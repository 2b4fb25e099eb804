"""The outcomes of a check, and the exceptions for them."""

from enum import Enum
from typing import TypeVar

Value = TypeVar("Value")


class Outcome(Enum):
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    NOT_RUN = "not run"


class CheckFailed(Exception):
    """The proxy violates a requirement. The texts contain no secret and no plaintext."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class NotApplicable(Exception):
    """The check needs something that is missing; the text says what."""


class CheckNotMade(Exception):
    """The check could not be made for a reason other than the proxy; the text gives the reason."""


def expect(holds: object, expected: str, got: object) -> None:
    """Fail the check unless the condition holds."""
    if not holds:
        raise CheckFailed(expected, str(got))


def required(value: Value | None, option: str) -> Value:
    """The value of an option that a check needs."""
    if value is None:
        raise NotApplicable(f"{option} was not given")
    return value

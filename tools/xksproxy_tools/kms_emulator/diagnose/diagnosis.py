"""The steps and the result of a diagnosis."""

from dataclasses import dataclass
from enum import Enum

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy import kms_errors
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure


class Result(Enum):
    """The result of a step."""

    GOOD = "ok"
    WARNING = "warning"
    """KMS accepts it, but it may become a problem."""

    WRONG = "WRONG"
    """KMS refuses it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What KMS would answer to the user who sets up the key store."""

    operation: str
    """The operation of KMS that fails."""

    answer: str
    """The name of an exception, or a ConnectionErrorCode."""

    message: str = ""
    """The text of the exception."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what was observed, and what to do about a problem."""

    name: str
    result: Result
    seen: str
    advice: str = ""
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All steps that were possible, in their order."""

    steps: tuple[Step, ...]

    @property
    def good(self) -> bool:
        """Whether KMS refuses nothing."""
        return all(step.result is not Result.WRONG for step in self.steps)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What each operation of KMS would answer. KMS stops at the first problem, so only the first refusal counts."""
        first: dict[str, Refusal] = {}
        for step in self.steps:
            for refusal in step.refusals:
                first.setdefault(refusal.operation, refusal)
        return tuple(first.values())

    @property
    def connection_error_code(self) -> str | None:
        """The ConnectionErrorCode of a key store with this proxy; None if it connects."""
        codes = (refusal.answer for refusal in self.refusals if refusal.operation == "ConnectCustomKeyStore")
        return next(codes, None)


def good(name: str, seen: str) -> Step:
    """A step without a problem."""
    return Step(name, Result.GOOD, seen)


def failed_connection(name: str, failure: ProxyFailure, advice: str) -> Step:
    """A step that prevents KMS from creating or connecting the key store."""
    error = kms_errors.key_store_error(failure.outcome)
    refusals = (
        Refusal("CreateCustomKeyStore", error.name, error.message),
        Refusal("ConnectCustomKeyStore", kms_errors.connection_error_code(failure.outcome)),
    )
    return Step(name, Result.WRONG, failure.detail, advice, refusals)


def refused(name: str, seen: str, advice: str, operation: str, error: KmsError) -> Step:
    """A step that makes one operation of KMS fail."""
    return Step(name, Result.WRONG, seen, advice, (Refusal(operation, error.name, error.message),))

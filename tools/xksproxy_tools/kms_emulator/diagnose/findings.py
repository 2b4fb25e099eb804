"""What a diagnosis consists of."""

from dataclasses import dataclass
from enum import Enum

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy import verdicts
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure


class Result(Enum):
    """How a step went."""

    GOOD = "ok"
    WARNING = "warning"
    """KMS takes it as it is; it may not stay so."""

    WRONG = "WRONG"
    """KMS refuses it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What KMS would answer to whoever sets up the key store."""

    operation: str
    """The operation of KMS that fails."""

    answer: str
    """The name of an exception, or a ConnectionErrorCode."""

    message: str = ""
    """The text of the exception."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what was seen, and what to do where that is not good."""

    name: str
    result: Result
    seen: str
    advice: str = ""
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All steps that could be taken, in their order."""

    steps: tuple[Step, ...]

    @property
    def good(self) -> bool:
        """Whether KMS refuses nothing."""
        return all(step.result is not Result.WRONG for step in self.steps)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What each operation of KMS would answer: the first that is wrong for it, since it does not come further."""
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
    """A step without anything to say against it."""
    return Step(name, Result.GOOD, seen)


def failed_connection(name: str, failure: ProxyFailure, advice: str) -> Step:
    """A step that keeps KMS from creating the key store, or from connecting it."""
    error = verdicts.key_store_error(failure.outcome)
    refusals = (
        Refusal("CreateCustomKeyStore", error.name, error.message),
        Refusal("ConnectCustomKeyStore", verdicts.connection_error_code(failure.outcome)),
    )
    return Step(name, Result.WRONG, failure.detail, advice, refusals)


def refused(name: str, seen: str, advice: str, operation: str, error: KmsError) -> Step:
    """A step that makes one operation of KMS fail."""
    return Step(name, Result.WRONG, seen, advice, (Refusal(operation, error.name, error.message),))

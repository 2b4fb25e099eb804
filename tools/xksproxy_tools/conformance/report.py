"""The results of a run, by check and by requirement."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from xksproxy import __version__
from xksproxy_tools.conformance.catalogue import CATALOGUE, Requirement
from xksproxy_tools.conformance.check import Level
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.runner import Result

UNCHECKED: Final = "not checked"
_WORST_FIRST: Final = (Outcome.FAILED, Outcome.NOT_RUN, Outcome.PASSED, Outcome.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class RequirementResult:
    """The result for a requirement: the worst outcome of its checks, or ``not checked`` with the reason."""

    requirement: Requirement
    outcome: str
    checks: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a complete run."""

    proxy: str
    """The URL of the key store."""

    started: datetime
    seconds: float
    results: tuple[Result, ...]

    def count(self, outcome: Outcome, level: Level | None = None) -> int:
        """The number of checks with this outcome, of one level or of all."""
        return sum(one.outcome is outcome and level in (None, one.check.level) for one in self.results)

    @property
    def conforms(self) -> bool:
        """Whether every check of a MUST was made, and none failed."""
        return not self.count(Outcome.FAILED, Level.MUST) and not self.count(Outcome.NOT_RUN)

    @property
    def summary(self) -> str:
        """The counts of outcomes as text."""
        must = self.count(Outcome.FAILED, Level.MUST)
        counts = {
            "passed": self.count(Outcome.PASSED),
            "MUST failed": must,
            "SHOULD failed": self.count(Outcome.FAILED) - must,
            Outcome.NOT_RUN.value: self.count(Outcome.NOT_RUN),
            Outcome.NOT_APPLICABLE.value: self.count(Outcome.NOT_APPLICABLE),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no checks"

    def failures(self) -> tuple[Result, ...]:
        """The failures, MUST before SHOULD."""
        failed = [result for result in self.results if result.outcome is Outcome.FAILED]
        return tuple(sorted(failed, key=lambda result: list(Level).index(result.check.level)))

    def requirement_results(self) -> Iterator[RequirementResult]:
        """The results for all requirements of the catalogue."""
        for requirement in CATALOGUE:
            about = [result for result in self.results if requirement.id in result.check.requirements]
            outcomes = {result.outcome for result in about}
            worst = next((outcome.value for outcome in _WORST_FIRST if outcome in outcomes), UNCHECKED)
            reason = requirement.unchecked or ("" if about else "no check of it was selected")
            yield RequirementResult(requirement, worst, tuple(result.check.id for result in about), reason)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON output. Durations are in seconds, times in UTC."""
        return {
            "proxy": self.proxy,
            "tool": f"xksproxy {__version__}",
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "conforms": self.conforms,
            "counts": {outcome.value: self.count(outcome) for outcome in Outcome},
            "checks": [_result_as_dict(result) for result in self.results],
            "requirements": [
                {
                    "id": result.requirement.id,
                    "level": result.requirement.level,
                    "text": result.requirement.text,
                    "outcome": result.outcome,
                    "checks": list(result.checks),
                    "reason": result.reason,
                }
                for result in self.requirement_results()
            ],
        }


def _result_as_dict(result: Result) -> dict[str, Any]:
    return {
        "id": result.check.id,
        "chapter": result.chapter.name,
        "requirements": list(result.check.requirements),
        "level": result.check.level.value,
        "title": result.check.title,
        "outcome": result.outcome.value,
        "seconds": round(result.seconds, 4),
        "note": result.note,
        "expected": result.expected,
        "got": result.got,
    }

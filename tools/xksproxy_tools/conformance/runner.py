"""Making the checks, one after another."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from xksproxy_tools.conformance.check import Chapter, Check
from xksproxy_tools.conformance.http_connection import ConnectionEnded, NotHttp
from xksproxy_tools.conformance.outcome import CheckFailed, CheckNotMade, NotApplicable, Outcome
from xksproxy_tools.conformance.subject import Subject

CHECKABLE_ANSWER: Final = "an answer that can be judged"
"""What was expected where a check crashed."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a check ended. ``note`` is what a pass has to tell, or why there was none to make."""

    chapter: Chapter
    check: Check
    outcome: Outcome
    seconds: float = 0.0
    note: str = ""
    expected: str = ""
    got: str = ""


def run_checks(chapters: Iterable[Chapter], subject: Subject) -> Iterator[Result]:
    """Make the checks of some chapters. One that crashes has failed, with what happened; the others still run.

    Once the proxy takes no connection any more, the rest is not run.
    """
    gone = ""
    for chapter in chapters:
        for check in chapter.checks:
            if gone:
                yield Result(chapter, check, Outcome.NOT_RUN, note=gone)
                continue
            result = run_check(chapter, check, subject)
            if result.outcome is Outcome.FAILED and (reason := _unreachable(subject)):
                gone = f"since {check.id} the proxy takes no connection: {reason}"
            yield result


def run_check(chapter: Chapter, check: Check, subject: Subject) -> Result:
    """Make one check."""
    started = time.perf_counter()
    note = expected = got = ""
    try:
        note = check.run(subject) or ""
        outcome = Outcome.PASSED
    except NotApplicable as reason:
        outcome, note = Outcome.NOT_APPLICABLE, str(reason)
    except CheckNotMade as reason:
        outcome, note = Outcome.NOT_RUN, str(reason)
    except Exception as failure:  # noqa: BLE001 - whatever a proxy provokes, the other checks must be made
        outcome = Outcome.FAILED
        expected, got = _expected_and_got(failure, subject)
        subject.disconnect()  # nobody knows what is still under way on it
    return Result(chapter, check, outcome, time.perf_counter() - started, note, expected, got)


def _expected_and_got(failure: Exception, subject: Subject) -> tuple[str, str]:
    """What was expected, and what came instead."""
    match failure:
        case CheckFailed():
            return failure.expected, failure.got
        case NotHttp():
            return "an answer of HTTP/1.1", str(failure)
        case TimeoutError():
            return "an answer", f"none within {subject.timeout:g} s"
        case ConnectionEnded():
            return "an answer", str(failure)
        case OSError():
            return "an answer", f"{type(failure).__name__}: {failure}"
    return CHECKABLE_ANSWER, f"{type(failure).__name__}: {failure}"


def _unreachable(subject: Subject) -> str:
    try:
        subject.connect().close()
    except OSError as error:
        return str(error)
    return ""

"""Makes the checks one after another."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from xksproxy_tools.conformance.check import Chapter, Check
from xksproxy_tools.conformance.http_connection import ConnectionEnded, NotHttp
from xksproxy_tools.conformance.outcome import CheckFailed, CheckNotMade, NotApplicable, Outcome
from xksproxy_tools.conformance.subject import Subject

CHECKABLE_ANSWER: Final = "a response that can be checked"
"""The expectation in the result of a check that raised an unexpected exception."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check. ``note`` is about a passed check, or says why the check was not made."""

    chapter: Chapter
    check: Check
    outcome: Outcome
    seconds: float = 0.0
    note: str = ""
    expected: str = ""
    got: str = ""


def run_checks(chapters: Iterable[Chapter], subject: Subject) -> Iterator[Result]:
    """Make the checks of some chapters. A check that raises an unexpected exception has failed.

    When the proxy accepts no more connections, the remaining checks are not run.
    """
    gone = ""
    for chapter in chapters:
        for check in chapter.checks:
            if gone:
                yield Result(chapter, check, Outcome.NOT_RUN, note=gone)
                continue
            result = run_check(chapter, check, subject)
            if result.outcome is Outcome.FAILED and (reason := _unreachable(subject)):
                gone = f"the proxy accepts no connection since {check.id}: {reason}"
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
    except Exception as failure:  # noqa: BLE001 - the other checks must be made after any failure
        outcome = Outcome.FAILED
        expected, got = _expected_and_got(failure, subject)
        subject.disconnect()  # its state is unknown
    return Result(chapter, check, outcome, time.perf_counter() - started, note, expected, got)


def _expected_and_got(failure: Exception, subject: Subject) -> tuple[str, str]:
    """The expected result, and the actual one."""
    match failure:
        case CheckFailed():
            return failure.expected, failure.got
        case NotHttp():
            return "a response in HTTP/1.1", str(failure)
        case TimeoutError():
            return "a response", f"none within {subject.timeout:g} s"
        case ConnectionEnded():
            return "a response", str(failure)
        case OSError():
            return "a response", f"{type(failure).__name__}: {failure}"
    return CHECKABLE_ANSWER, f"{type(failure).__name__}: {failure}"


def _unreachable(subject: Subject) -> str:
    try:
        subject.connect().close()
    except OSError as error:
        return str(error)
    return ""

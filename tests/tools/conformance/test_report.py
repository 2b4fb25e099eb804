"""A report as JSON, JUnit XML, HTML and text."""

import io
import json
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from xksproxy_tools.conformance.catalogue import CATALOGUE
from xksproxy_tools.conformance.check import Chapter, Check, Level
from xksproxy_tools.conformance.html_report import html
from xksproxy_tools.conformance.junit_report import junit
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.report import Report
from xksproxy_tools.conformance.runner import Result
from xksproxy_tools.conformance.text_report import print_report

NASTY = "<script>&\x1b\x00"


def result(outcome: Outcome, level: Level = Level.MUST, requirement: str = "R-ENC-1", **texts: str) -> Result:
    check = Check(f"{level.value.lower()}-{outcome.value.replace(' ', '-')}", (requirement,), level, "A title", print)
    return Result(Chapter("encrypt", "Encrypt", (check,)), check, outcome, 0.25, **texts)


MUST_FAILED = result(Outcome.FAILED, expected="this", got=NASTY)
SHOULD_FAILED = result(Outcome.FAILED, Level.SHOULD, "R-ENC-2", expected="one", got="another")
PASSED = result(Outcome.PASSED, requirement="R-ENC-1", note="a note")
NOT_APPLICABLE = result(Outcome.NOT_APPLICABLE, requirement="R-ENC-3", note="no key")
NOT_RUN = result(Outcome.NOT_RUN, requirement="R-ENC-4", note="gone")


def report(*results: Result) -> Report:
    started = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    return Report("https://xks.example.com/eu/kms/xks/v1", started, 1.5, results)


ALL = report(SHOULD_FAILED, PASSED, MUST_FAILED, NOT_APPLICABLE, NOT_RUN)


@pytest.mark.parametrize(
    ("results", "conforms"),
    [
        ((), True),
        ((PASSED,), True),
        ((PASSED, SHOULD_FAILED, NOT_APPLICABLE), True),
        ((PASSED, MUST_FAILED), False),
        ((PASSED, NOT_RUN), False),
    ],
)
def test_a_failed_must_or_a_check_that_was_not_run_breaks_conformance(
    results: tuple[Result, ...], conforms: bool
) -> None:
    assert report(*results).conforms is conforms


def test_the_summary_counts_outcomes() -> None:
    assert ALL.summary == "1 passed, 1 MUST failed, 1 SHOULD failed, 1 not run, 1 not applicable"
    assert report(PASSED).summary == "1 passed"
    assert report().summary == "no checks"


def test_must_comes_before_should_among_the_failures() -> None:
    assert ALL.failures() == (MUST_FAILED, SHOULD_FAILED)


def test_a_requirement_has_the_worst_outcome_of_its_checks() -> None:
    verdicts = {verdict.requirement.id: verdict for verdict in ALL.requirement_results()}

    assert list(verdicts) == [requirement.id for requirement in CATALOGUE]
    outcomes = [verdicts[f"R-ENC-{number}"].outcome for number in range(1, 5)]
    assert outcomes == ["failed", "failed", "not applicable", "not run"]
    assert verdicts["R-ENC-1"].checks == (PASSED.check.id, MUST_FAILED.check.id)
    assert (verdicts["R-ENC-5"].outcome, verdicts["R-ENC-5"].reason) == (
        "not checked",
        "no check of it was selected",
    )
    assert verdicts["R-LOG-1"].reason == "logs cannot be seen from outside"


def test_the_report_is_json() -> None:
    facts = json.loads(json.dumps(ALL.as_dict()))

    assert facts["proxy"] == "https://xks.example.com/eu/kms/xks/v1"
    assert facts["started"] == "2026-11-25T12:00:00+00:00"
    assert facts["conforms"] is False
    assert facts["counts"] == {"passed": 1, "failed": 2, "not applicable": 1, "not run": 1}
    assert facts["checks"][2] | {"id": "must-failed", "outcome": "failed", "got": NASTY} == facts["checks"][2]
    assert len(facts["requirements"]) == len(CATALOGUE)


def test_junit_fails_where_the_exit_code_does() -> None:
    root = ET.fromstring(junit(ALL))
    (suite,) = root
    kinds = {case.get("name", "").partition(":")[0]: [child.tag for child in case] for case in suite}

    assert suite.attrib == {
        "name": "Encrypt",
        "timestamp": "2026-11-25T12:00:00+00:00",
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "2",
    }
    assert kinds == {
        "should-failed": ["skipped"],
        "must-passed": ["system-out"],
        "must-failed": ["failure"],
        "must-not-applicable": ["skipped"],
        "must-not-run": ["error"],
    }
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "expected this, got <script>&\ufffd\ufffd"


def test_the_page_has_the_results_and_escapes_texts_of_the_proxy() -> None:
    page, good = html(ALL), html(report(PASSED))

    assert "&lt;script&gt;&amp;" in page
    for text in ("does not conform", ALL.summary, "https://xks.example.com/eu/kms/xks/v1", "R-LOG-1", "a note"):
        assert text in page
    assert "Nothing." in good
    assert "does not conform" not in good


def test_the_table_has_every_check_and_then_the_failures() -> None:
    out = io.StringIO()
    print_report(ALL, Console(file=out, highlight=False, markup=False))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]

    assert [line.split()[0] for line in lines[1:6]] == ["FAILED", "ok", "FAILED", "n/a", "not"]
    assert "must-failed  MUST R-ENC-1: A title" in lines
    assert "  expected  this" in lines
    assert lines[-1].startswith(f"does not conform: {ALL.summary}, in 1.5 s; ")

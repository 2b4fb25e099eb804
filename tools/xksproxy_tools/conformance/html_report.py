"""The HTML report."""

from typing import Final

from markupsafe import Markup

from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.report import UNCHECKED, Report, RequirementResult
from xksproxy_tools.conformance.runner import Result
from xksproxy_tools.report.page import Page, Section, paragraph, render, table

_KINDS: Final = {Outcome.FAILED.value: "bad", Outcome.NOT_RUN.value: "bad", Outcome.PASSED.value: "good"}
_NO_NUMBERS: Final = 1_000


def html(report: Report) -> str:
    """An HTML document with the failures, all checks, and all requirements."""
    page = Page(
        title="Conformance of an external key store proxy",
        result="conforms" if report.conforms else "does not conform",
        good=report.conforms,
        subject=report.proxy,
        properties=(("Result", report.summary), ("Took", f"{report.seconds:.1f} s")),
        sections=_sections(report),
        made_at=report.started,
    )
    return render(page)


def _sections(report: Report) -> list[Section]:
    failures = report.failures()
    sections = [Section("Failures", _failures(failures) if failures else paragraph("Nothing.", "good"))]
    chapters = {result.chapter.name: result.chapter.title for result in report.results}
    for name, title in chapters.items():
        sections.append(Section(title, _checks([one for one in report.results if one.chapter.name == name])))
    requirements = list(report.requirement_results())
    checked = [result for result in requirements if result.outcome != UNCHECKED]
    unchecked = [result for result in requirements if result.outcome == UNCHECKED]
    sections.append(Section("By requirement", _requirements(checked)))
    if unchecked:
        sections.append(Section("Requirements that were not checked", _unchecked(unchecked)))
    return sections


def _failures(failures: tuple[Result, ...]) -> Markup:
    columns = ("check", "level", "requirements", "expected", "got")
    rows = [
        (one.check.id, one.check.level.value, ", ".join(one.check.requirements), one.expected, one.got)
        for one in failures
    ]
    return table(columns, rows, numbers_from=_NO_NUMBERS)


def _checks(results: list[Result]) -> Markup:
    columns = ("", "level", "expectation", "requirements", "note")
    rows = [
        (
            _badge(one.outcome.value),
            one.check.level.value,
            Markup('{}<br><code class="dim">{}</code>').format(one.check.title, one.check.id),
            ", ".join(one.check.requirements),
            one.note,
        )
        for one in results
    ]
    return table(columns, rows, numbers_from=_NO_NUMBERS)


def _requirements(requirements: list[RequirementResult]) -> Markup:
    columns = ("", "level", "requirement", "text", "checks")
    rows = [
        (_badge(one.outcome), one.requirement.level, one.requirement.id, one.requirement.text, ", ".join(one.checks))
        for one in requirements
    ]
    return table(columns, rows, numbers_from=_NO_NUMBERS)


def _unchecked(requirements: list[RequirementResult]) -> Markup:
    columns = ("requirement", "level", "text", "why not")
    rows = [(one.requirement.id, one.requirement.level, one.requirement.text, one.reason) for one in requirements]
    return table(columns, rows, numbers_from=_NO_NUMBERS)


def _badge(outcome: str) -> Markup:
    return Markup('<span class="{}">{}</span>').format(_KINDS.get(outcome, "dim"), outcome)

"""The text report."""

from collections.abc import Iterable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from xksproxy_tools.conformance.check import Level
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.report import UNCHECKED, Report
from xksproxy_tools.conformance.runner import Result

_STYLES: Final = {Outcome.PASSED: "green", Outcome.NOT_APPLICABLE: "dim", Outcome.NOT_RUN: "bold red"}
_WORDS: Final = {Outcome.PASSED: "ok", Outcome.NOT_APPLICABLE: "n/a", Outcome.NOT_RUN: "not run"}
_WIDER_THAN_ANY_TABLE: Final = 100_000


def print_report(report: Report, console: Console | None = None) -> None:
    """Print all checks, the failures in detail, and the summary."""
    console = console or Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDER_THAN_ANY_TABLE
    console.print(Group(_table(report.results), *_failures(report.failures()), Text(), _sum(report)))


def _table(results: Iterable[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "LEVEL", "CHECK", "REQUIREMENTS", "EXPECTATION"):
        table.add_column(column, overflow="fold")
    for result in results:
        style = _STYLES.get(result.outcome) or ("bold red" if result.check.level is Level.MUST else "yellow")
        check = result.check
        title = f"{check.title}: {result.note}" if result.note else check.title
        word = _WORDS.get(result.outcome, "FAILED")
        table.add_row(Text(word, style), check.level.value, check.id, ", ".join(check.requirements), title)
    return table


def _failures(failures: Iterable[Result]) -> Iterable[RenderableType]:
    for result in failures:
        check = result.check
        yield Text(f"\n{check.id}  {check.level.value} {', '.join(check.requirements)}: {check.title}", "bold")
        yield Text(f"  expected  {result.expected}\n  got       {result.got}")


def _sum(report: Report) -> Text:
    unchecked = sum(result.outcome == UNCHECKED for result in report.requirement_results())
    text = Text()
    word = "conforms" if report.conforms else "does not conform"
    text.append(word, "bold green" if report.conforms else "bold red")
    text.append(f": {report.summary}, in {report.seconds:.1f} s; {unchecked} requirements were not checked")
    return text

"""docs/performance.md: the results between its marks, with a chart in a file of its own each."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from markupsafe import Markup
from xksproxy_tools.report.charts import Axis, Line, bar_chart, line_chart, linear, logarithmic, nines

from benchmarks.results import Chart, Finding, Results, Table
from benchmarks.workbench import Scenario

DOCS: Final = Path(__file__).parents[1] / "docs"
_PAGE: Final = "performance.md"
_CHARTS: Final = "performance"


def publish(results: Results, scenarios: Sequence[Scenario], docs: Path = DOCS) -> None:
    """Write the results to the page and its charts. The sections of scenarios that did not run are not changed.

    Raises:
        ValueError: the page has no section for a scenario.
    """
    charts, page = docs / _CHARTS, docs / _PAGE
    known = load(charts / "results.json")
    known.machine = results.machine
    known.findings |= results.findings
    text = _replaced(page.read_text("utf-8"), "machine", _machine(known.machine))
    for scenario in scenarios:
        if finding := known.findings.get(scenario.name):
            text = _replaced(text, scenario.name, section(scenario, finding))
    save(known, charts / "results.json")
    for finding in known.findings.values():
        for chart in finding.charts:
            (charts / f"{chart.name}.svg").write_text(drawn(chart) + "\n", "utf-8")
    page.write_text(text, "utf-8")


def load(path: Path) -> Results:
    """Results from JSON; empty if there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def save(results: Results, path: Path) -> None:
    """Results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def section(scenario: Scenario, finding: Finding) -> str:
    """A scenario in Markdown, without its heading."""
    parts = [
        scenario.method,
        *(markdown(table) for table in finding.tables if table.rows),
        *(f"![{chart.title}]({_CHARTS}/{chart.name}.svg)" for chart in finding.charts),
        *finding.notes,
    ]
    if finding.goals:
        rows = [(goal.text, goal.found, "yes" if goal.reached else "**no**") for goal in finding.goals]
        parts.append(markdown(Table(("goal", "found", "reached"), rows), numbers_from=3))
    return "\n\n".join(parts)


def markdown(table: Table, *, numbers_from: int = 1) -> str:
    """A table in Markdown."""
    rule = ["---:" if at >= numbers_from else "---" for at in range(len(table.columns))]
    lines = [table.columns, tuple(rule), *table.rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def drawn(chart: Chart) -> Markup:
    """Its SVG."""
    if chart.bars:
        return bar_chart(chart.title, chart.bars)
    points = [point for series in chart.series for point in series.points]
    lines = [Line(series.name, series.points) for series in chart.series]
    across, up = [x for x, _ in points], [y for _, y in points]
    return line_chart(
        chart.title, _axis(chart.x, chart.x_scale, across), _axis(chart.y, chart.y_scale, up), lines, mark=chart.mark
    )


def _axis(name: str, scale: str, values: Sequence[float]) -> Axis:
    if scale == "nines":
        return nines(name)
    if scale == "logarithmic":
        return logarithmic(name, min(values), max(values))
    return linear(name, 0, max(values))


def _machine(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _replaced(page: str, name: str, text: str) -> str:
    """The page with the text between the marks of that name replaced."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)

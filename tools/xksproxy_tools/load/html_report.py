"""The HTML report of a measurement."""

from typing import Final

from markupsafe import Markup

from xksproxy.spec.uri import BASE_PATH
from xksproxy_tools.load.figures import Figures
from xksproxy_tools.load.measure import Measurement
from xksproxy_tools.load.plan import LATE_SECONDS, Destination, Plan
from xksproxy_tools.load.text_report import (
    LATENCY_COLUMNS,
    false_answers,
    generator_warning,
    latency_rows,
    outcome_rows,
    summary,
)
from xksproxy_tools.report.charts import Line, line_chart, linear, logarithmic, nines
from xksproxy_tools.report.page import Page, Section, paragraph, render, table

_LATE: Final = (1000 * LATE_SECONDS, "time limit of KMS")


def report(plan: Plan, destination: Destination, measurement: Measurement) -> str:
    """An HTML document with summary, latencies, their distribution, and their course over time."""
    figures, wrong = measurement.figures, false_answers([measurement])
    target = destination.target
    page = Page(
        title="Load on an external key store proxy",
        result="false answers" if wrong else f"p99 {figures.latency.p99:.1f} ms, {figures.late_share:.3%} late",
        good=not wrong and not figures.late,
        subject=f"https://{target.authority}{target.path_prefix}{BASE_PATH}",
        properties=summary(plan, measurement),
        sections=[
            *([Section("False answers", Markup().join(paragraph(text, "bad") for text in wrong))] if wrong else []),
            Section("Latency", table(LATENCY_COLUMNS, latency_rows(measurement))),
            Section("Failed requests", _outcomes(measurement)),
            Section("Distribution", distribution_charts(figures)),
            Section("Course", course_charts(figures)),
            *(
                [Section("Generator", paragraph(generator_warning(measurement), "warn"))]
                if measurement.generator.limit
                else []
            ),
        ],
    )
    return render(page)


def distribution_charts(figures: Figures) -> Markup:
    """Charts of the histogram and of the percentiles."""
    bins = [(x, float(part.count)) for part in figures.histogram for x in (part.lower, part.upper)]
    times = logarithmic("ms", bins[0][0], bins[-1][0])
    most = max(count for _, count in bins)
    histogram = line_chart(
        "Requests by latency",
        times,
        linear("requests", 0, most),
        [Line("latency", [(bins[0][0], 0.0), *bins, (bins[-1][0], 0.0)])],
    )
    reach = logarithmic("ms", figures.curve[0].on_the_wire or 0.01, figures.latency.maximum)
    percentiles = line_chart(
        "Latency by percentile",
        nines("% of requests"),
        reach,
        [
            Line("from being due", [(point.share, point.latency) for point in figures.curve]),
            Line("on the wire", [(point.share, point.on_the_wire) for point in figures.curve]),
        ],
        mark=_LATE,
    )
    return histogram + percentiles


def course_charts(figures: Figures) -> Markup:
    """Charts of latency and throughput for each second."""
    seconds = [second for second in figures.timeline if second.second + 1 <= figures.seconds] or figures.timeline
    busy = [second for second in seconds if second.requests]
    across = linear("s", 0, max(1, len(seconds) - 1))
    latencies = line_chart(
        "Latency by the second in which requests were due",
        across,
        logarithmic("ms", min(second.p50 for second in busy), figures.latency.maximum),
        [
            Line("p50", [(second.second, second.p50) for second in busy]),
            Line("p99", [(second.second, second.p99) for second in busy]),
            Line("maximum", [(second.second, second.maximum) for second in busy]),
        ],
        mark=_LATE,
    )
    return latencies + line_chart(
        "Requests and answers",
        across,
        linear("a second", 0, max(max(second.requests, second.answered) for second in seconds)),
        [
            Line("due", [(second.second, second.requests) for second in seconds]),
            Line("successful", [(second.second, second.answered) for second in seconds]),
            Line("failed", [(second.second, second.failed) for second in seconds]),
        ],
    )


def _outcomes(measurement: Measurement) -> Markup:
    rows = outcome_rows(measurement)
    return table(("result", "requests"), rows) if rows else paragraph("Nothing.", "good")

"""(f) Latency at the rate that AWS demands."""

from typing import Final

from xksproxy_tools.load.figures import Figures
from xksproxy_tools.load.plan import Plan
from xksproxy_tools.load.text_report import LATENCY_COLUMNS, latency_rows

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, Series, Table
from benchmarks.servers import Setting
from benchmarks.side_by_side import measure_once
from benchmarks.workbench import Scenario, Workbench

_PLAN: Final = Plan(rate=1800, duration=60, warm_up=5)
_P99_MS, _P99_9_MS = 10.0, 25.0


def _run(workbench: Workbench) -> Finding:
    with servers.proxy(workbench.tokens, workbench.new_directory(), Setting(workers=2)) as server:
        variant = workbench.variant("1,800 a second", server, _PLAN)
        sample, measurement = measure_once(variant, 0, workbench.report_sample)
    figures = measurement.figures
    goals = [
        Goal("p99 under 10 ms", f"{figures.latency.p99:.2f} ms", reached=figures.latency.p99 < _P99_MS),
        Goal("p99.9 under 25 ms", f"{figures.latency.p99_9:.2f} ms", reached=figures.latency.p99_9 < _P99_9_MS),
        Goal("none over 250 ms", f"{figures.late} of {figures.requests:,}", reached=not figures.late),
        Goal("none failed", f"{sample.failed} of {figures.requests:,}", reached=not sample.failed),
    ]
    lag = figures.lag
    note = (
        f"The server took {sample.server_cpu:.0f} µs of processor time a request, the generator"
        f" {sample.generator_cpu:.0f} µs; its lag was {lag.p50:.2f} ms (p50) and {lag.p99:.2f} ms (p99), which is part"
        " of the latency."
    )
    table = Table(LATENCY_COLUMNS, latency_rows(measurement))
    return Finding([table], goals, _charts(figures), [sample], [note])


def _charts(figures: Figures) -> list[Chart]:
    seconds = [second for second in figures.timeline if second.requests]
    return [
        Chart(
            "latency",
            "Latency by percentile at 1,800 requests a second",
            "% of requests",
            "ms",
            x_scale="nines",
            y_scale="logarithmic",
            series=[
                Series("from being due", [(point.share, point.latency) for point in figures.curve]),
                Series("on the wire", [(point.share, point.on_the_wire) for point in figures.curve]),
            ],
            mark=(250.0, "time limit of KMS"),
        ),
        Chart(
            "latency-course",
            "Latency by the second in which requests were due",
            "s",
            "ms",
            y_scale="logarithmic",
            series=[
                Series("p50", [(float(second.second), second.p50) for second in seconds]),
                Series("p99", [(float(second.second), second.p99) for second in seconds]),
                Series("maximum", [(float(second.second), second.maximum) for second in seconds]),
            ],
            mark=(250.0, "time limit of KMS"),
        ),
    ]


SCENARIO: Final = Scenario(
    "latency",
    "Latency at 1,800 requests a second",
    f"`xksproxy bench` for a minute, with its usual mix ({_PLAN.mix}) and sizes on {_PLAN.connections} connections,"
    " open loop, against two workers with everything on. Latency counts from when a request was due.",
    _run,
)

"""The capacity of the load generator."""

from dataclasses import replace
from typing import Final

from xksproxy_tools.load.plan import Plan

from benchmarks import servers
from benchmarks.results import Finding, Goal, Table
from benchmarks.side_by_side import measure_once
from benchmarks.workbench import Scenario, Workbench

_CLOSED: Final = Plan(closed=True, connections=32, duration=4, warm_up=1)
_OPEN: Final = Plan(rate=5000, duration=4, warm_up=1)
_GOAL: Final = 5000


def _run(workbench: Workbench) -> Finding:
    with servers.echo(workbench.tokens, workbench.new_directory()) as server:
        closed, _ = measure_once(workbench.variant("as many as it can", server, _CLOSED), 0, workbench.report_sample)
        plan = replace(_OPEN, rate=min(_OPEN.rate, 0.7 * closed.throughput))
        opened, measurement = measure_once(
            workbench.variant(f"{plan.rate:,.0f} a second", server, plan), 0, workbench.report_sample
        )
    lag = measurement.figures.lag
    rows = [
        (
            closed.variant,
            f"{closed.throughput:,.0f}",
            f"{closed.generator_cpu:.0f}",
            f"{closed.server_cpu:.0f}",
            "",
            "",
        ),
        (
            opened.variant,
            f"{opened.throughput:,.0f}",
            f"{opened.generator_cpu:.0f}",
            f"{opened.server_cpu:.0f}",
            f"{lag.p50:.2f}",
            f"{lag.p99:.2f}",
        ),
    ]
    columns = ("load", "requests/s", "generator CPU µs/request", "echo CPU µs/request", "lag p50 ms", "lag p99 ms")
    capacity = 1e6 / closed.generator_cpu
    goal = Goal(
        "one core drives at least 5,000 requests a second",
        f"{capacity:,.0f} a second of its processor time",
        reached=capacity >= _GOAL,
    )
    return Finding([Table(columns, rows)], [goal], samples=[closed, opened])


SCENARIO: Final = Scenario(
    "generator",
    "The load generator",
    "`xksproxy bench` against a server that echoes, over the same TLS. The processor time of the generator is not"
    " available to the proxy. Its lag is the delay from the due time of a request to its submission, and is part of the"
    " latency.",
    _run,
)

"""The text report of a measurement."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from xksproxy_tools.load.figures import Distribution
from xksproxy_tools.load.measure import Measurement
from xksproxy_tools.load.plan import Plan
from xksproxy_tools.load.search import Search

LATENCY_COLUMNS: Final = ("ms", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean")
TRIAL_COLUMNS: Final = ("requests/s", "p50 ms", "p99 ms", "max ms", "limited by", "")
Rows = list[tuple[str, ...]]


def summary(plan: Plan, measurement: Measurement) -> list[tuple[str, str]]:
    """The settings and the main results of a measurement, as names and values."""
    figures, own, lag = measurement.figures, measurement.generator, measurement.figures.lag
    arrivals = "closed loop" if plan.closed else f"open loop, {plan.rate:,g}/s, {plan.arrivals.value} arrivals"
    return [
        ("load", f"{arrivals}, {plan.connections} connections"),
        ("time", f"{figures.seconds:.1f} s, after a warm-up of {plan.warm_up:g} s"),
        ("mix", f"{plan.mix}; plaintext bytes {plan.plaintext_bytes}; AAD bytes {plan.aad_bytes}"),
        ("requests", f"{figures.requests:,}, {figures.ok:,} of them successful"),
        ("throughput", f"{figures.throughput:,.0f} successful responses per second"),
        ("over 250 ms", f"{figures.late:,} ({figures.late_share:.4%}), failed for KMS"),
        ("round trips", f"{measurement.round_trips} Encrypts were decrypted to the right plaintext afterwards"),
        ("connections", _connections(measurement)),
        ("generator", f"{own.cpu_microseconds_a_request:.0f} µs of CPU a request, {own.cpu_share:.0%} of a core"),
        ("generator's lag", f"p50 {lag.p50:.2f}, p99 {lag.p99:.2f}, maximum {lag.maximum:.2f} ms"),
    ]


def _connections(measurement: Measurement) -> str:
    errors = [f"{count} x {name}" for name, count in sorted(measurement.connection_errors.items())]
    return "; ".join([f"{measurement.connections_made} replaced", *errors])


def latency_rows(measurement: Measurement) -> Rows:
    """Distributions in the columns :data:`LATENCY_COLUMNS`."""
    figures = measurement.figures
    rows = [
        ("latency, from being due", figures.latency),
        ("  waited for a connection", figures.waited),
        ("  on the wire", figures.on_the_wire),
        *((f"latency of {name}", own) for name, own in figures.operations.items()),
    ]
    return [_row(name, values) for name, values in rows]


def _row(name: str, values: Distribution) -> tuple[str, ...]:
    columns = (values.p50, values.p90, values.p99, values.p99_9, values.p99_99, values.maximum, values.mean)
    return (name, *(f"{value:.2f}" for value in columns))


def outcome_rows(measurement: Measurement) -> Rows:
    """The results of failed requests and their counts."""
    return [(outcome.name, f"{outcome.count:,}") for outcome in measurement.figures.outcomes]


def false_answers(measurements: Iterable[Measurement]) -> list[str]:
    """The false responses, which are reported first."""
    return [f"{count} x {name}" for measurement in measurements for name, count in measurement.wrong.items()]


def trial_rows(search: Search) -> Rows:
    """The trials of a search in the columns :data:`TRIAL_COLUMNS`."""
    return [
        (
            f"{trial.rate:,.0f}",
            f"{trial.measurement.figures.latency.p50:.2f}",
            f"{trial.measurement.figures.latency.p99:.2f}",
            f"{trial.measurement.figures.latency.maximum:.1f}",
            trial.measurement.generator.limit or "",
            trial.refusal or "passed",
        )
        for trial in search.trials
    ]


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """A plan for JSON output."""
    return {
        name: str(value) if name in ("mix", "plaintext_bytes", "aad_bytes") else msgspec.to_builtins(value)
        for name, value in ((field, getattr(plan, field)) for field in Plan.__slots__)
    }


def generator_warning(measurement: Measurement) -> str:
    """A warning that the generator may have limited the result."""
    return f"The generator, not the proxy, may have limited these figures: {measurement.generator.limit}."

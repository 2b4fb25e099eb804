"""The results of scenarios, for JSON and for the documentation."""

from collections.abc import Sequence
from statistics import median
from typing import Final, Literal

import msgspec

Scale = Literal["linear", "logarithmic", "nines"]


class Sample(msgspec.Struct, frozen=True):
    """The result of one phase of load on one variant."""

    variant: str
    round: int
    throughput: float
    """Successful responses per second."""

    requests: int
    failed: int
    late: int
    """Requests without a response within 250 ms."""

    p50: float
    p99: float
    p99_9: float
    maximum: float
    """Latencies in milliseconds."""

    server_cpu: float
    """Microseconds of the server's processes for each request; 0 if they are on another machine."""

    generator_cpu: float
    """The same of the load generator."""

    generator_limit: str | None
    wrong: dict[str, int]
    """False responses, by their result."""

    failures: dict[str, int]


class Table(msgspec.Struct, frozen=True):
    """Rows of text. All columns but the first are numbers."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Goal(msgspec.Struct, frozen=True):
    """A goal, the result, and whether the goal was reached."""

    text: str
    found: str
    reached: bool


class Series(msgspec.Struct, frozen=True):
    """A line of a chart."""

    name: str
    points: list[tuple[float, float]]


class Chart(msgspec.Struct, frozen=True):
    """A line chart, or a bar chart if it has ``bars``."""

    name: str
    """The name of its file."""

    title: str
    x: str = ""
    y: str = ""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    series: list[Series] = []
    bars: list[tuple[str, float]] = []
    mark: tuple[float, str] | None = None


class Finding(msgspec.Struct, frozen=True):
    """The result of a scenario."""

    tables: list[Table]
    goals: list[Goal] = []
    charts: list[Chart] = []
    samples: list[Sample] = []
    notes: list[str] = []
    seconds: float = 0.0
    """The duration."""


class Results(msgspec.Struct):
    """The results of scenarios, by name, and the properties of the machine."""

    machine: dict[str, str] = {}
    findings: dict[str, Finding] = {}


USUAL_COLUMNS: Final = ("", "requests/s", "spread", "server CPU µs/request", "spread", "p50 ms", "p99 ms")


def usual_table(samples: Sequence[Sample], variants: Sequence[str]) -> Table:
    """The medians over all rounds for each variant, and the spread of the rounds."""
    return Table(USUAL_COLUMNS, [_usual_row(variant, of(samples, variant)) for variant in variants])


def of(samples: Sequence[Sample], variant: str) -> list[Sample]:
    """The samples of a variant, in the order of rounds."""
    return sorted((sample for sample in samples if sample.variant == variant), key=lambda sample: sample.round)


def spread(values: Sequence[float]) -> float:
    """The difference between highest and lowest value, as a share of the median."""
    return (max(values) - min(values)) / median(values) if median(values) else 0.0


def median_ratio(samples: Sequence[Sample], variant: str, other: str) -> float:
    """The throughput of a variant as a share of the other's: the median over rounds."""
    pairs = zip(of(samples, variant), of(samples, other), strict=True)
    return median(one.throughput / two.throughput if two.throughput else 0.0 for one, two in pairs)


def throughput(samples: Sequence[Sample], variant: str) -> float:
    """The median throughput over rounds."""
    return median(sample.throughput for sample in of(samples, variant))


def server_cpu(samples: Sequence[Sample], variant: str) -> float:
    """The median processor time over rounds, in microseconds per request."""
    return median(sample.server_cpu for sample in of(samples, variant))


def _usual_row(variant: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    throughputs = [sample.throughput for sample in samples]
    cpu = [sample.server_cpu for sample in samples]
    return (
        variant,
        f"{median(throughputs):,.0f}",
        f"{spread(throughputs):.0%}",
        f"{median(cpu):,.0f}" if any(cpu) else "not here",
        f"{spread(cpu):.0%}" if any(cpu) else "",
        f"{median(sample.p50 for sample in samples):.2f}",
        f"{median(sample.p99 for sample in samples):.2f}",
    )

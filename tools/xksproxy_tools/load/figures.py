"""Exact statistics of a recording. Every percentile is a latency that was measured."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from xksproxy_tools.load.plan import LATE_SECONDS
from xksproxy_tools.load.recording import OPERATIONS, Recording

PERCENTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999))

_POINTS_A_NINE: Final = 10
_BINS_A_DECADE: Final = 20
_SHORTEST_MS: Final = 0.01


class Distribution(msgspec.Struct, frozen=True):
    """A distribution of times in milliseconds, with nearest-rank percentiles."""

    count: int
    mean: float
    minimum: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    p99_99: float
    maximum: float


class Second(msgspec.Struct, frozen=True):
    """The results of the requests that were due in one second."""

    second: int
    requests: int
    answered: int
    """Successful responses received in this second."""

    failed: int
    p50: float
    p99: float
    maximum: float


class CurvePoint(msgspec.Struct, frozen=True):
    """Percentiles of latency and of time on the wire at one share of the requests."""

    share: float
    latency: float
    on_the_wire: float


class Bin(msgspec.Struct, frozen=True):
    """The number of requests with a latency in an interval of milliseconds, without the upper bound."""

    lower: float
    upper: float
    count: int


class Outcome(msgspec.Struct, frozen=True):
    """The number of requests with the same result."""

    name: str
    count: int
    wrong: bool
    """The status was 200, but the content was false."""


class Figures(msgspec.Struct, frozen=True):
    """The statistics of a phase. Times are in milliseconds from the due time of a request."""

    seconds: float
    """From the first request to the last response."""

    requests: int
    ok: int
    throughput: float
    """Successful responses per second."""

    late: int
    """Requests without a response 250 ms after they were due."""

    late_share: float
    outcomes: list[Outcome]
    """The results of failed requests, the most frequent first."""

    latency: Distribution = msgspec.field(name="latency_ms")
    on_the_wire: Distribution = msgspec.field(name="on_the_wire_ms")
    """From sending to the response."""

    waited: Distribution = msgspec.field(name="waited_ms")
    """From the due time to sending."""

    lag: Distribution = msgspec.field(name="lag_ms")
    """The delay of the generator: from the due time to the submission. It is part of ``waited``."""

    operations: dict[str, Distribution] = msgspec.field(name="operations_ms")
    """Latency by operation."""

    curve: list[CurvePoint]
    histogram: list[Bin]
    """All bins from the first to the last that is not empty, 20 for each power of ten."""

    timeline: list[Second]

    @property
    def wrong(self) -> list[Outcome]:
        """The false_answers findings."""
        return [outcome for outcome in self.outcomes if outcome.wrong]


def figures_of(recording: Recording, seconds: float) -> Figures:
    """Compute the statistics of a recording with at least one row. ``seconds`` is the duration of the schedule."""
    latency = _differences(recording.ended, recording.scheduled)
    on_the_wire = _differences(recording.ended, recording.sent)
    counts = Counter(recording.results)
    ok = counts.pop(0, 0)
    late = sum(1 for value in latency if value > LATE_SECONDS)
    lasted = max(seconds, recording.ended[-1])
    return Figures(
        seconds=lasted,
        requests=len(latency),
        ok=ok,
        throughput=ok / lasted,
        late=late,
        late_share=late / len(latency),
        outcomes=[
            Outcome(result.name, count, result.wrong)
            for number, count in counts.most_common()
            for result in (recording.distinct_results[number],)
        ],
        latency=distribution(latency),
        on_the_wire=distribution(on_the_wire),
        waited=distribution(_differences(recording.sent, recording.scheduled)),
        lag=distribution(_differences(recording.dispatched, recording.scheduled)),
        operations=_by_operation(recording, latency),
        curve=_curve(sorted(latency), sorted(on_the_wire)),
        histogram=_histogram(latency),
        timeline=_timeline(recording, latency),
    )


def distribution(seconds: Iterable[float]) -> Distribution:
    """The distribution of at least one time."""
    ordered = sorted(seconds)
    return Distribution(
        count=len(ordered),
        mean=1000 * math.fsum(ordered) / len(ordered),
        minimum=1000 * ordered[0],
        **{name: 1000 * percentile(ordered, share) for name, share in PERCENTILES},
        maximum=1000 * ordered[-1],
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values: the smallest value that a ``share`` of all does not exceed."""
    # In binary 0.9999 is not exact, which could move the rank by one.
    return ordered[max(0, math.ceil(round(share * len(ordered), 6)) - 1)]


def _differences(later: "array[float]", earlier: "array[float]") -> "array[float]":
    return array("d", (end - start for end, start in zip(later, earlier, strict=True)))


def _by_operation(recording: Recording, latency: "array[float]") -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for code, operation in enumerate(OPERATIONS):
        own = [value for value, kind in zip(latency, recording.operations, strict=True) if kind == code]
        if own:
            found[operation.value] = distribution(own)
    return found


def _curve(latency: Sequence[float], on_the_wire: Sequence[float]) -> list[CurvePoint]:
    """Ten points for each nine, up to the resolution of the number of requests."""
    steps = range(int(_POINTS_A_NINE * math.log10(len(latency))) + 1)
    shares = [*(1 - 10 ** (-step / _POINTS_A_NINE) for step in steps), 1.0]
    return [
        CurvePoint(share, 1000 * percentile(latency, share), 1000 * percentile(on_the_wire, share)) for share in shares
    ]


def _histogram(latency: Iterable[float]) -> list[Bin]:
    counts = Counter(math.floor(_BINS_A_DECADE * math.log10(max(1000 * value, _SHORTEST_MS))) for value in latency)
    return [
        Bin(10 ** (at / _BINS_A_DECADE), 10 ** ((at + 1) / _BINS_A_DECADE), counts[at])
        for at in range(min(counts), max(counts) + 1)
    ]


def _timeline(recording: Recording, latency: "array[float]") -> list[Second]:
    """Results by the second in which a request was due, so a stall appears at its start."""
    due: dict[int, list[float]] = {}
    failed = Counter[int]()
    for scheduled, value, result in zip(recording.scheduled, latency, recording.results, strict=True):
        due.setdefault(int(scheduled), []).append(value)
        failed[int(scheduled)] += result != 0
    answered = Counter(
        int(ended) for ended, result in zip(recording.ended, recording.results, strict=True) if not result
    )
    timeline = []
    for second in range(max([*due, *answered]) + 1):
        ordered = sorted(due.get(second, (0.0,)))
        timeline.append(
            Second(
                second=second,
                requests=len(due.get(second, ())),
                answered=answered[second],
                failed=failed[second],
                p50=1000 * percentile(ordered, 0.5),
                p99=1000 * percentile(ordered, 0.99),
                maximum=1000 * ordered[-1],
            )
        )
    return timeline

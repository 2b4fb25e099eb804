"""Exact figures of a recording: every percentile is a latency that was measured."""

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
    """Of times in milliseconds. A percentile is the nearest rank: the smallest value that so many do not exceed."""

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
    """What became of the requests that were due in one second."""

    second: int
    requests: int
    answered: int
    """Answers that came in this second."""

    failed: int
    p50: float
    p99: float
    maximum: float


class CurvePoint(msgspec.Struct, frozen=True):
    """The latency that a share of the requests does not exceed, and the time on the wire that a share does not."""

    share: float
    latency: float
    on_the_wire: float


class Bin(msgspec.Struct, frozen=True):
    """Requests whose latency lies between two bounds in milliseconds, the upper one excluded."""

    lower: float
    upper: float
    count: int


class Outcome(msgspec.Struct, frozen=True):
    """How many requests ended in a way."""

    name: str
    count: int
    wrong: bool
    """Answered 200 with something false."""


class Figures(msgspec.Struct, frozen=True):
    """What a phase showed. Times in milliseconds, counted from when a request was due."""

    seconds: float
    """From the first request to the last answer."""

    requests: int
    ok: int
    throughput: float
    """Good answers a second."""

    late: int
    """Requests that had no answer 250 ms after they were due."""

    late_share: float
    outcomes: list[Outcome]
    """Of the requests that were not answered well, the most frequent first."""

    latency: Distribution = msgspec.field(name="latency_ms")
    on_the_wire: Distribution = msgspec.field(name="on_the_wire_ms")
    """From sending to the answer."""

    waited: Distribution = msgspec.field(name="waited_ms")
    """From being due to being sent."""

    lag: Distribution = msgspec.field(name="lag_ms")
    """The generator's own: how long after a request was due it came to it. Part of what was waited."""

    operations: dict[str, Distribution] = msgspec.field(name="operations_ms")
    """Latency by operation."""

    curve: list[CurvePoint]
    histogram: list[Bin]
    """All bins from the first that is not empty to the last, 20 to a power of ten."""

    timeline: list[Second]

    @property
    def wrong(self) -> list[Outcome]:
        """The gravest findings."""
        return [outcome for outcome in self.outcomes if outcome.wrong]


def figures_of(recording: Recording, seconds: float) -> Figures:
    """Sum up a recording that has at least one row; ``seconds`` is how long requests were due."""
    latency = _differences(recording.ended, recording.scheduled)
    on_the_wire = _differences(recording.ended, recording.sent)
    counts = Counter(recording.verdicts)
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
            Outcome(verdict.name, count, verdict.wrong)
            for number, count in counts.most_common()
            for verdict in (recording.verdict_list[number],)
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
    """The nearest rank in ordered values: the smallest of them that a ``share`` of all does not exceed."""
    # What is 1 - 0.9999 in decimals is a little less in binary, and would move the rank by one.
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
    """Ten points to each nine, as far as there are requests to tell."""
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
    """By the second in which a request was due; a stall shows at its beginning."""
    due: dict[int, list[float]] = {}
    failed = Counter[int]()
    for scheduled, value, verdict in zip(recording.scheduled, latency, recording.verdicts, strict=True):
        due.setdefault(int(scheduled), []).append(value)
        failed[int(scheduled)] += verdict != 0
    answered = Counter(
        int(ended) for ended, verdict in zip(recording.ended, recording.verdicts, strict=True) if not verdict
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

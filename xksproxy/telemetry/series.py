"""Counters, gauges and histograms of one process, kept in memory.

Each series is changed by one thread, so changes need no lock and cost a request little time.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, NamedTuple, TypeVar

OTHER: Final = "other"


class Kind(Enum):
    """The type of a metric, and the rule that merges the values of several processes."""

    COUNTER = auto()
    """The sum over all processes, including those that have ended."""

    HISTOGRAM = auto()
    """The sum over all processes, including those that have ended."""

    SUM = auto()
    """A gauge: the sum over living processes."""

    LEAST = auto()
    """A gauge: the lowest value of a living process."""

    GREATEST = auto()
    """A gauge: the highest value of a living process."""

    FURTHEST = auto()
    """A gauge: the value of a living process that is furthest from 0."""

    @property
    def outlives_process(self) -> bool:
        """Whether the values of processes that have ended still count."""
        return self in (Kind.COUNTER, Kind.HISTOGRAM)


@dataclass(frozen=True, slots=True)
class Family:
    """The definition of a metric."""

    name: str
    """Without the suffix ``_total`` of counters."""

    help: str
    labels: tuple[str, ...]
    kind: Kind
    edges: tuple[float, ...] = ()
    """Of a histogram: the upper bounds of its buckets. The last one is infinite."""

    most_series: int | None = None
    """The maximum number of series. Further ones count in a series whose labels, except the first, are ``other``."""

    def bounded(self, labels: tuple[str, ...], number_of_series: int) -> tuple[str, ...]:
        """The labels under which a new series counts if there are ``number_of_series``."""
        if self.most_series is None or number_of_series < self.most_series:
            return labels
        return labels[:1] + (OTHER,) * (len(labels) - 1)


class CounterSeries:
    """One series of a counter."""

    __slots__ = ("_value",)

    def __init__(self, _: Family) -> None:
        self._value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add an amount."""
        self._value += amount

    def values(self) -> list[float]:
        """The count."""
        return [self._value]


class GaugeSeries:
    """One series of a gauge."""

    __slots__ = ("_at", "_value")

    def __init__(self, _: Family) -> None:
        self._value = 0.0
        self._at = 0.0

    def set(self, value: float) -> None:
        """Set the value."""
        self._value, self._at = float(value), time.monotonic()

    def unset(self) -> None:
        """Have no value."""
        self._at = 0.0

    def values(self) -> list[float]:
        """The value, and when it was set, on the monotonic clock in seconds. Nothing if there is none."""
        return [self._value, self._at] if self._at else []


class StoredExemplar(NamedTuple):
    """A request of a bucket, for an exemplar of OpenMetrics."""

    bucket: int
    trace_id: str
    amount: float
    at: float
    """Unix time in seconds."""


class HistogramSeries:
    """One series of a histogram."""

    __slots__ = ("_counts", "_edges", "_sum", "exemplars")

    def __init__(self, family: Family) -> None:
        self._edges = family.edges
        self._counts = [0.0] * len(family.edges)
        self._sum = 0.0
        self.exemplars: dict[int, StoredExemplar] = {}
        """The latest traced amount of each bucket."""

    def observe(self, amount: float, trace_id: str | None = None) -> None:
        """Count an amount in its bucket, up to and including the bound. ``trace_id`` is the trace of its request."""
        bucket = bisect_left(self._edges, amount)
        self._counts[bucket] += 1
        self._sum += amount
        if trace_id is not None:
            self.exemplars[bucket] = StoredExemplar(bucket, trace_id, amount, time.time())

    def values(self) -> list[float]:
        """The number of amounts in each bucket (not cumulative), then the sum of all amounts."""
        return [*self._counts, self._sum]


Series = TypeVar("Series", CounterSeries, GaugeSeries, HistogramSeries)


class SeriesOf(Generic[Series]):
    """All series of one metric in this process."""

    def __init__(self, family: Family, make: type[Series]) -> None:
        self.family = family
        self._make: type[Series] = make
        self._series: dict[tuple[str, ...], Series] = {}
        if not family.labels:
            self.labels()

    def labels(self, *labels: str) -> Series:
        """The series with these labels, in the order of the definition. It is made if there is none."""
        found = self._series.get(labels)
        if found is None:
            labels = self.family.bounded(labels, len(self._series))
            found = self._series.setdefault(labels, self._make(self.family))
        return found

    def values(self) -> Iterator[tuple[tuple[str, ...], list[float]]]:
        """The labels and values of each series that has a value. Another thread may make series meanwhile."""
        for labels, series in list(self._series.items()):
            if values := series.values():
                yield labels, values


def exemplars_of(metric: "SeriesOf[HistogramSeries]") -> Iterator[tuple[tuple[str, ...], list[StoredExemplar]]]:
    """The labels and exemplars of each series that has some."""
    for labels, series in list(metric._series.items()):  # noqa: SLF001 - of this module
        if series.exemplars:
            yield labels, list(series.exemplars.values())


Counters = SeriesOf[CounterSeries]
Gauges = SeriesOf[GaugeSeries]
Histograms = SeriesOf[HistogramSeries]

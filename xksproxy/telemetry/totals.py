"""Merges the values that processes publish, and gives them to prometheus-client."""

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from xksproxy.telemetry.definitions import REQUEST_DURATION
from xksproxy.telemetry.series import Counters, Example, Family, Gauges, Histograms, Kind

_FRESH_SECONDS: Final = 10.0

Values = dict[tuple[str, ...], list[float]]
"""The values of the series of one metric, by their labels."""

Rows = list[tuple[tuple[str, ...], list[float]]]
"""The same as a list, as it is written: labels and values of each series."""


class Published(msgspec.Struct, array_like=True):
    """The metrics that one process publishes."""

    id: str
    """A random id of the process, because the system may use a process id again."""

    at: float
    """The time of publication, on the monotonic clock of the machine in seconds."""

    families: dict[str, Rows]
    """The series of each metric."""

    examples: list[tuple[tuple[str, ...], list[Example]]] = []
    """The examples of :data:`.definitions.REQUEST_DURATION`, by labels."""

    included: tuple[str, ...] = ()
    """The ids of the last ended processes whose values are included."""

    @property
    def fresh(self) -> bool:
        """Whether it was published in the last 10 s, so that its gauges count."""
        return time.monotonic() - self.at < _FRESH_SECONDS


def values_of(
    metrics: Iterable[Counters | Gauges | Histograms],
) -> dict[str, Rows]:
    """The series of metrics of this process, for :attr:`Published.families`."""
    return {metric.family.name: list(metric.values()) for metric in metrics}


class Totals:
    """The merged values of processes."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = {family.name: family for family in families}
        self._values: dict[str, Values] = {name: {} for name in self._families}
        self._examples: dict[tuple[str, ...], dict[int, Example]] = {}

    def add(self, published: Published) -> None:
        """Add what a process has published. Gauges count only while they are fresh. Unknown metrics are left out."""
        for name, series in published.families.items():
            family = self._families.get(name)
            if family is not None and (family.kind.outlives_process or published.fresh):
                for labels, values in series:
                    self._add(family, self._values[name], labels, values)
        for labels, examples in published.examples:
            latest = self._examples.setdefault(labels, {})
            for example in examples:
                before = latest.get(example.bucket)
                latest[example.bucket] = example if before is None or before.at < example.at else before

    def add_lasting(self, published: Published) -> None:
        """Add the counters and histograms of a process that has ended."""
        for name, series in published.families.items():
            family = self._families.get(name)
            if family is not None and family.kind.outlives_process:
                for labels, values in series:
                    self._add(family, self._values[name], labels, values)

    @staticmethod
    def _add(family: Family, all_values: Values, labels: tuple[str, ...], values: list[float]) -> None:
        before = all_values.get(labels)
        if before is None:
            labels = family.bounded(labels, len(all_values))
            before = all_values.get(labels)
        if before is None or len(before) != len(values):
            all_values[labels] = list(values)
            return
        match family.kind:
            case Kind.COUNTER | Kind.HISTOGRAM:
                all_values[labels] = [one + other for one, other in zip(before, values, strict=True)]
            case Kind.SUM:
                before[0] += values[0]
            case Kind.LEAST:
                all_values[labels] = min(before, values)
            case Kind.GREATEST:
                all_values[labels] = max(before, values)
            case Kind.LATEST:
                all_values[labels] = max(before, values, key=lambda pair: pair[1])

    def families(self) -> dict[str, Rows]:
        """All values, for :attr:`Published.families`."""
        return {name: list(values.items()) for name, values in self._values.items() if values}

    def values(self, name: str) -> Mapping[tuple[str, ...], list[float]]:
        """The values of one metric, by labels."""
        return self._values[name]

    def collect(self) -> Iterator[Metric]:
        """Each metric that has series, for prometheus-client's formats."""
        for name, family in self._families.items():
            if values := self._values[name]:
                yield _metric(family, values, self._examples if name == REQUEST_DURATION.name else {})


def _metric(family: Family, all_values: Values, examples: Mapping[tuple[str, ...], Mapping[int, Example]]) -> Metric:
    name, text, labels = family.name, family.help, family.labels
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        edges = [floatToGoString(edge) for edge in family.edges]  # type: ignore[no-untyped-call]
        for label_values, values in all_values.items():
            counts = accumulate(values[:-1])
            of_series = examples.get(label_values, {})
            buckets = [
                _bucket(edge, count, of_series.get(number))
                for number, (edge, count) in enumerate(zip(edges, counts, strict=True))
            ]
            histogram.add_metric(label_values, buckets, values[-1])
        return histogram
    simple: CounterMetricFamily | GaugeMetricFamily = (
        CounterMetricFamily(name, text, labels=labels)
        if family.kind is Kind.COUNTER
        else GaugeMetricFamily(name, text, labels=labels)
    )
    for label_values, values in all_values.items():
        simple.add_metric(label_values, values[0])
    return simple


def _bucket(edge: str, count: float, example: Example | None) -> tuple[str, float] | tuple[str, float, Exemplar]:
    if example is None:
        return edge, count
    return edge, count, Exemplar({"trace_id": example.trace_id}, example.amount, example.at)

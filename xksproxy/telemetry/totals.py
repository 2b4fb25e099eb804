"""Merges the values that processes publish, and gives them to prometheus-client."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate, chain, islice
from typing import Final, Self

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from xksproxy.decoding import decode_json
from xksproxy.telemetry.definitions import REQUEST_DURATION
from xksproxy.telemetry.series import OTHER, Counters, Family, Gauges, Histograms, Kind, StoredExemplar

_FRESH_SECONDS: Final = 10.0
_PART_SERIES: Final = 200
"""So many series are encoded or decoded by one call, which no other thread can interrupt."""

Values = dict[tuple[str, ...], list[float]]
"""The values of the series of one metric, by their labels."""

Rows = list[tuple[tuple[str, ...], list[float]]]
"""The same as a list, as it is written: labels and values of each series."""


Families = dict[str, Rows]
"""The series of several metrics, by the names of the metrics."""


class Published(msgspec.Struct, array_like=True):
    """What one process publishes of its metrics, or the beginning of it."""

    id: str
    """A random id of the process, because the system may use a process id again."""

    at: float
    """The time of publication, on the monotonic clock of the machine in seconds."""

    families: Families
    """The series of each metric that are not in :attr:`more`."""

    exemplars: list[tuple[tuple[str, ...], list[StoredExemplar]]] = []
    """The exemplars of :data:`.definitions.REQUEST_DURATION`, by labels."""

    included: tuple[str, ...] = ()
    """The ids of the last ended processes whose values are included."""

    more: Iterable[Families] = ()
    """Further series, in parts. In a file, each is a line of its own."""

    @property
    def fresh(self) -> bool:
        """Whether it was published in the last 10 s, so that its gauges count."""
        return time.monotonic() - self.at < _FRESH_SECONDS

    def encode(self) -> bytes:
        """As JSON, in lines. The interpreter is free for other threads between two lines."""
        head = msgspec.structs.replace(self, more=())
        return b"\n".join(map(msgspec.json.encode, chain((head,), self.more)))

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The inverse. Lines after the first are decoded one after another, while :attr:`more` is read.

        Raises:
            msgspec.MsgspecError: the first line is not what :meth:`encode` makes; reading ``more`` raises it too.
        """
        head, *lines = content.split(b"\n")
        return msgspec.structs.replace(decode_json(head, cls), more=(decode_json(line, Families) for line in lines))


def values_of(metrics: Iterable[Counters | Gauges | Histograms]) -> Iterator[Families]:
    """The series of metrics of this process, in parts for :attr:`Published.more`."""
    for metric in metrics:
        values = metric.values()
        while rows := list(islice(values, _PART_SERIES)):
            yield {metric.family.name: rows}


class Totals:
    """The merged values of processes."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = {family.name: family for family in families}
        self._values: dict[str, Values] = {name: {} for name in self._families}
        self._exemplars: dict[tuple[str, ...], dict[int, StoredExemplar]] = {}

    def add(self, published: Published) -> None:
        """Add what a process has published. Gauges count only while they are fresh. Unknown metrics are left out."""
        self._add_all(published, lasting_only=not published.fresh)
        for labels, exemplars in published.exemplars:
            latest = self._exemplars.setdefault(labels, {})
            for exemplar in exemplars:
                before = latest.get(exemplar.bucket)
                latest[exemplar.bucket] = exemplar if before is None or before.at < exemplar.at else before

    def add_lasting(self, published: Published) -> None:
        """Add the counters and histograms of a process that has ended."""
        self._add_all(published, lasting_only=True)

    def _add_all(self, published: Published, *, lasting_only: bool) -> None:
        for families in chain((published.families,), published.more):
            for name, series in families.items():
                family = self._families.get(name)
                if family is not None and (family.kind.outlives_process or not lasting_only):
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
            case Kind.FURTHEST:
                all_values[labels] = max(before, values, key=lambda pair: abs(pair[0]))

    def families(self) -> Iterator[Families]:
        """All values, in parts for :attr:`Published.more`."""
        for name, values in self._values.items():
            series = iter(values.items())
            while rows := list(islice(series, _PART_SERIES)):
                yield {name: rows}

    def count_series(self) -> dict[str, int]:
        """The number of series of each metric, as Prometheus counts them: each bucket of a histogram is one."""
        return {name: len(values) * self.series_in(name) for name, values in self._values.items()}

    def series_in(self, name: str) -> int:
        """The number of series that Prometheus sees for one of ours: of a histogram the buckets, sum and count."""
        family = self._families[name]
        return len(family.edges) + 2 if family.edges else 1

    def fold(self, name: str, kept: Collection[str]) -> None:
        """Add the series of key stores that are not ``kept``, the first label, to one key store ``other``."""
        family, before = self._families[name], self._values[name]
        after: Values = {labels: values for labels, values in before.items() if labels[0] in kept}
        for labels, values in before.items():
            if labels[0] not in kept:
                self._add(family, after, (OTHER, *labels[1:]), values)
        self._values[name] = after

    def values(self, name: str) -> Mapping[tuple[str, ...], list[float]]:
        """The values of one metric, by labels."""
        return self._values[name]

    def collect(self) -> Iterator[Metric]:
        """Each metric that has series, for prometheus-client's formats."""
        for name, family in self._families.items():
            if values := self._values[name]:
                yield _metric(family, values, self._exemplars if name == REQUEST_DURATION.name else {})


def _metric(
    family: Family, all_values: Values, exemplars: Mapping[tuple[str, ...], Mapping[int, StoredExemplar]]
) -> Metric:
    name, text, labels = family.name, family.help, family.labels
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        edges = [floatToGoString(edge) for edge in family.edges]  # type: ignore[no-untyped-call]
        for label_values, values in all_values.items():
            counts = accumulate(values[:-1])
            of_series = exemplars.get(label_values, {})
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


def _bucket(
    edge: str, count: float, exemplar: StoredExemplar | None
) -> tuple[str, float] | tuple[str, float, Exemplar]:
    if exemplar is None:
        return edge, count
    return edge, count, Exemplar({"trace_id": exemplar.trace_id}, exemplar.amount, exemplar.at)

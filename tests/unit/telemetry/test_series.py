"""Series in memory, and what Prometheus reads of them, compared with prometheus-client where it does the same."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from xksproxy.telemetry.series import CounterSeries, Family, GaugeSeries, HistogramSeries, Kind, SeriesOf
from xksproxy.telemetry.totals import Published, Totals, values_of

EDGES = (0.001, 0.25, 1.0)
AMOUNTS = Family("amounts", "Amounts.", ("kind",), Kind.HISTOGRAM, (*EDGES, math.inf))
THINGS = Family("things", "Things.", (), Kind.COUNTER)


def samples(families: list[Metric]) -> dict[tuple[str, ...], float]:
    """Samples by name and labels, without their creation times."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def collected(*metrics: SeriesOf[CounterSeries] | SeriesOf[GaugeSeries] | SeriesOf[HistogramSeries]) -> list[Metric]:
    totals = Totals([metric.family for metric in metrics])
    totals.add(Published("id", 0.0, {}, more=values_of(metrics)))
    return list(totals.collect())


@given(st.lists(st.sampled_from([0.0, 0.0005, 0.001, 0.1, 0.25, 0.250001, 1.0, 7.0])))
def test_a_histogram_has_the_values_of_prometheus_client(amounts: list[float]) -> None:
    registry = CollectorRegistry()
    expected = Histogram("amounts", "Amounts.", ("kind",), registry=registry, buckets=EDGES).labels("k")
    series = SeriesOf(AMOUNTS, HistogramSeries)
    own = series.labels("k")

    for amount in amounts:
        expected.observe(amount)
        own.observe(amount)

    assert samples(collected(series)) == samples(list(registry.collect()))


def test_a_counter_has_the_name_and_value_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    expected = Counter("things", "Things.", registry=registry)
    series = SeriesOf(THINGS, CounterSeries)
    assert samples(collected(series)) == {("things_total",): 0}

    for amount in (1.0, 2.5):
        expected.inc(amount)
        series.labels().inc(amount)

    assert samples(collected(series)) == samples(list(registry.collect()))


def test_a_gauge_that_was_never_set_has_no_value() -> None:
    family = Family("depth", "Depth.", ("of",), Kind.GREATEST)
    series = SeriesOf(family, GaugeSeries)
    series.labels("never set")
    series.labels("no longer set").set(1)
    series.labels("no longer set").unset()
    series.labels("set").set(0)

    assert [labels for labels, _ in series.values()] == [("set",)]


def test_beyond_the_most_series_the_first_label_stays_and_no_count_is_lost() -> None:
    family = Family("uses", "Uses.", ("store", "key", "caller"), Kind.COUNTER, most_series=2)
    series = SeriesOf(family, CounterSeries)

    for store, key in (("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("b", "5"), ("b", "2")):
        series.labels(store, key, "c").inc()

    assert dict(series.values()) == {
        ("a", "1", "c"): [1],
        ("b", "2", "c"): [2],
        ("a", "other", "other"): [2],
        ("b", "other", "other"): [1],
    }

"""Buffered counts give the same metrics as prometheus-client with each single call."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from xksproxy.telemetry.counters import BufferedCounter, BufferedHistogram

EDGES = (0.001, 0.25, 1.0)


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Samples by name and bucket, without their creation times."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram("amounts", "Amounts.", registry=registry, buckets=EDGES)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.0005, 0.001, 0.1, 0.25, 0.250001, 1.0, 7.0]))))
def test_a_histogram_has_the_same_values_after_one_flush(batches: list[list[float]]) -> None:
    told, gathered = CollectorRegistry(), CollectorRegistry()
    directly, tally = histogram(told), BufferedHistogram(histogram(gathered), (*EDGES, math.inf))

    for batch in batches:
        for amount in batch:
            directly.observe(amount)
            tally.observe(amount)
        tally.flush()

    expected, actual = samples(told), samples(gathered)
    assert expected.keys() == actual.keys()
    assert all(math.isclose(expected[name], actual[name]) for name in expected)


def test_a_counter_shows_the_count_after_a_flush() -> None:
    registry = CollectorRegistry()
    tally = BufferedCounter(Counter("things", "Things.", registry=registry))
    for _ in range(3):
        tally.inc()
    before = registry.get_sample_value("things_total")
    tally.flush()
    tally.flush()

    assert before == 0
    assert registry.get_sample_value("things_total") == 3

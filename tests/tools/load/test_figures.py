import math
from random import Random

import pytest
from xksproxy_tools.load.figures import distribution, figures_of, percentile
from xksproxy_tools.load.recording import Recording
from xksproxy_tools.load.requests import OK, RequestResult

from xksproxy.spec.uri import Operation


def _recording(latencies_ms: list[float], *, gap: float = 0.01, sent_after: float = 0.0) -> Recording:
    recording = Recording(1000.0)
    rows = sorted((number * gap + latency / 1000, number * gap) for number, latency in enumerate(latencies_ms))
    for ended, due in rows:
        sent = 1000 + due + sent_after
        recording.add(Operation.ENCRYPT, OK, scheduled=1000 + due, dispatched=1000 + due, sent=sent, ended=1000 + ended)
    return recording


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1), (0.5, 5000), (0.9, 9000), (0.99, 9900), (0.999, 9990), (0.9999, 9999), (1.0, 10_000)],
)
def test_a_percentile_is_the_value_that_exactly_so_many_do_not_exceed(share: float, expected: float) -> None:
    assert percentile(range(1, 10_001), share) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 1234])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_a_percentile_agrees_with_counting(count: int, share: float) -> None:
    values = sorted(Random(count).choices(range(50), k=count))
    needed = math.ceil(count * round(share * 10_000) / 10_000 - 1e-9)

    expected = next(value for value in values if sum(other <= value for other in values) >= needed)

    assert percentile(values, share) == expected


def test_a_distribution_is_in_milliseconds() -> None:
    found = distribution([0.002, 0.001, 0.006])

    assert (found.count, found.minimum, found.p50, found.maximum) == (3, 1.0, 2.0, 6.0)
    assert found.mean == pytest.approx(3.0)


def test_latency_counts_from_when_a_request_was_due_and_is_split_into_waiting_and_wire() -> None:
    figures = figures_of(_recording([10.0] * 20, sent_after=0.004), 0.2)

    assert figures.latency.p50 == pytest.approx(10.0)
    assert figures.waited.p50 == pytest.approx(4.0)
    assert figures.on_the_wire.p50 == pytest.approx(6.0)


def test_a_request_is_late_from_250_ms_on() -> None:
    figures = figures_of(_recording([1.0, 249.9, 250.1, 900.0]), 1)

    assert figures.late == 2
    assert figures.late_share == 0.5


def test_what_is_not_answered_well_is_counted_by_name_and_lowers_the_throughput() -> None:
    recording = _recording([1.0] * 6)
    for verdict in (
        RequestResult("500 InternalException"),
        RequestResult("500 InternalException"),
        RequestResult("false", wrong=True),
    ):
        recording.add(Operation.DECRYPT, verdict, scheduled=1000, dispatched=1000, sent=1000, ended=1000.5)

    figures = figures_of(recording, 2)

    assert figures.requests == 9
    assert figures.ok == 6
    assert figures.throughput == 3.0
    assert [(item.name, item.count) for item in figures.outcomes] == [("500 InternalException", 2), ("false", 1)]
    assert [item.name for item in figures.wrong] == ["false"]
    assert set(figures.operations) == {"encrypt", "decrypt"}
    assert sum(second.failed for second in figures.timeline) == 3


def test_a_request_that_was_never_sent_has_waited_all_its_time() -> None:
    recording = Recording(0.0)
    recording.add(
        Operation.ENCRYPT, RequestResult("no connection"), scheduled=1.0, dispatched=1.0, sent=math.inf, ended=3.0
    )

    figures = figures_of(recording, 2)

    assert figures.waited.maximum == figures.latency.maximum == pytest.approx(2000.0)
    assert figures.on_the_wire.maximum == 0.0


def test_the_timeline_shows_a_stall_in_the_second_in_which_it_began() -> None:
    figures = figures_of(_recording([1.0] * 100 + [1500.0] * 100 + [1.0] * 100), 3)

    assert [second.requests for second in figures.timeline] == [100, 100, 100, 0]
    assert [round(second.maximum) for second in figures.timeline] == [1, 1500, 1, 0]
    assert figures.timeline[0].answered == 100
    assert figures.timeline[1].answered < 10


def test_histogram_and_curve_account_for_every_request() -> None:
    latencies = [Random(seed).lognormvariate(1, 1) for seed in range(1000)]

    figures = figures_of(_recording(latencies), 10)

    assert sum(part.count for part in figures.histogram) == 1000
    for lower, upper in zip(figures.histogram, figures.histogram[1:], strict=False):
        assert lower.upper == upper.lower
    assert figures.curve[-1].latency == pytest.approx(max(latencies))
    assert [point.latency for point in figures.curve] == sorted(point.latency for point in figures.curve)

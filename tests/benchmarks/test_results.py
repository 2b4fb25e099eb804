import pytest

from benchmarks.results import Sample, median_ratio, server_cpu, spread, throughput, usual_table


def _sample(variant: str, number: int, answers: float, cpu: float = 100.0) -> Sample:
    return Sample(
        variant=variant,
        round=number,
        throughput=answers,
        requests=1000,
        failed=0,
        late=0,
        p50=1.0,
        p99=2.0,
        p99_9=3.0,
        maximum=4.0,
        server_cpu=cpu,
        generator_cpu=50.0,
        generator_limit=None,
        wrong={},
        failures={},
    )


_SAMPLES = [
    *(_sample("baseline", number, answers) for number, answers in enumerate((1000.0, 2000.0, 4000.0))),
    *(_sample("proxy", number, answers, cpu=300.0) for number, answers in enumerate((800.0, 1500.0, 3200.0))),
]


def test_a_variant_is_told_by_its_median() -> None:
    assert throughput(_SAMPLES, "proxy") == 1500.0
    assert server_cpu(_SAMPLES, "proxy") == 300.0


def test_a_ratio_is_taken_within_each_round() -> None:
    # The rounds differ fourfold, as when the machine gets busy; the ratios are 0.8, 0.75 and 0.8.
    assert median_ratio(_SAMPLES, "proxy", "baseline") == pytest.approx(0.8)


def test_the_spread_is_a_share_of_the_median() -> None:
    assert spread([90.0, 100.0, 130.0]) == pytest.approx(0.4)
    assert spread([0.0, 0.0]) == 0.0


def test_a_row_tells_medians_and_spreads() -> None:
    table = usual_table(_SAMPLES, ["baseline", "proxy"])

    assert table.rows[1] == ("proxy", "1,500", "160%", "300", "0%", "1.00", "2.00")


def test_processor_time_that_cannot_be_read_is_not_told() -> None:
    row = usual_table([_sample("other", 0, 10.0, cpu=0.0)], ["other"]).rows[0]

    assert row[3:5] == ("not here", "")

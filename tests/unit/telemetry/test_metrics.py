"""Each response is counted in its series, and a series exists only after its first event."""

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

# In a separate process, because prometheus-client has one counting mode per process.
COUNT = """
import sys; from pathlib import Path; from xksproxy.telemetry.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
def count(keystore, kms_operation, xks_operation, exception, hsm_seconds):
    metrics.count_request(keystore=keystore, kms_operation=kms_operation, xks_operation=xks_operation,
                          exception=exception, seconds=0.5, queue_seconds=0.25, hsm_seconds=hsm_seconds)
for _ in range(3):
    count("one", "Encrypt", "Encrypt", None, 0.125)
count("one", "Encrypt", "Encrypt", "ThrottlingException", 0)
count("one", "Encrypt", "Encrypt", "KeyNotFoundException", 0)
count("one", "Decrypt", "Encrypt", None, 0.125)
count("one", "made up", "Encrypt", None, 0)
count("one", "also made up", "Encrypt", None, 0)
count("two", "KmsHealthCheck", "GetHealthStatus", None, 0)
count("", "", "", "InvalidUriPathException", 0)
metrics.publish()
print(metrics.render().decode())
"""


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], float]:
    """Values by the name of a series and its labels' values, in the order of their names; buckets left out."""
    directory = tmp_path_factory.mktemp("metrics")
    done = subprocess.run([sys.executable, "-c", COUNT, directory], capture_output=True, text=True, check=True)
    samples = [sample for family in text_string_to_metric_families(done.stdout) for sample in family.samples]
    return {
        (sample.name.removeprefix("xksproxy_"), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for sample in samples
        if not sample.name.endswith("_bucket")
    }


def test_each_kind_of_answer_is_counted_by_itself(series: dict[tuple[str, ...], float]) -> None:
    counted = {name[1:]: value for name, value in series.items() if name[0] == "requests_total"}

    assert counted == {
        ("none", "None", "one", "Encrypt", "Encrypt"): 3,
        ("retryable", "ThrottlingException", "one", "Encrypt", "Encrypt"): 1,
        ("non_retryable", "KeyNotFoundException", "one", "Encrypt", "Encrypt"): 1,
        ("none", "None", "one", "Decrypt", "Encrypt"): 1,
        ("none", "None", "one", "other", "Encrypt"): 2,
        ("none", "None", "two", "KmsHealthCheck", "GetHealthStatus"): 1,
        ("non_retryable", "InvalidUriPathException", "", "", ""): 1,
    }


@pytest.mark.parametrize(("part", "count", "seconds"), [("request", 8, 0.5), ("queue", 4, 0.25), ("hsm", 4, 0.125)])
def test_durations_are_those_of_their_part(
    part: str, count: int, seconds: float, series: dict[tuple[str, ...], float]
) -> None:
    assert series[f"{part}_duration_seconds_count", "one", "Encrypt"] == count
    assert series[f"{part}_duration_seconds_sum", "one", "Encrypt"] == count * seconds


def test_where_no_hsm_was_asked_there_is_no_series_of_its_time(series: dict[tuple[str, ...], float]) -> None:
    names = {name[0] for name in series if "two" in name and "_created" not in name[0]}

    assert names == {"requests_total", "request_duration_seconds_count", "request_duration_seconds_sum"}

"""A scrape has a bound: what is left out is counted, and nothing that was counted is lost."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from xksproxy.telemetry.collectors import CredentialInfo, KeyCount, MachineCollector, MachineInfo
from xksproxy.telemetry.metrics import Metrics
from xksproxy.telemetry.series_budget import allot

Samples = dict[tuple[str, ...], float]


def count(metrics: Metrics, keystore: str, times: int = 1) -> None:
    for _ in range(times):
        metrics.count_request(
            keystore=keystore,
            kms_operation="Encrypt",
            xks_operation="Encrypt",
            exception=None,
            seconds=0.5,
            queue_seconds=0.25,
            hsm_seconds=0.125,
        )


def samples(metrics: Metrics, most: int, machine: MachineCollector | None = None) -> Samples:
    text = metrics.render(machine, most_series=most).decode()
    return {
        (sample.name.removeprefix("xksproxy_"), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def stores_with_durations(found: Samples) -> set[str]:
    return {name[1] for name in found if name[0] == "request_duration_seconds_count"}


def machine(keys: Sequence[KeyCount] = (), credentials: Sequence[CredentialInfo] = ()) -> MachineCollector:
    return MachineCollector(MachineInfo(keys, credentials, "name", 0.0))


@given(st.dictionaries(st.text(), st.integers(0, 100)), st.integers(-5, 300))
def test_what_is_there_is_divided_and_nobody_gets_more_than_it_wants(wanted: dict[str, int], available: int) -> None:
    allotted = allot(wanted, available)

    assert all(0 <= allotted[name] <= wanted[name] for name in wanted)
    assert sum(allotted.values()) <= max(0, available)
    if sum(wanted.values()) <= available:
        assert allotted == wanted


def test_durations_of_most_key_stores_are_folded_and_requests_are_not(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for number in range(100):
        count(metrics, f"store-{number}", 1 + (number == 70))

    found = samples(metrics, 1000)

    assert len(found) <= 1000 + 10
    assert sum(name[0] == "requests_total" for name in found) == 100
    shown = stores_with_durations(found)
    assert {"store-70", "other"} < shown
    assert len(shown) > 5
    assert sum(value for name, value in found.items() if name[0] == "request_duration_seconds_count") == 101
    assert sum(value for name, value in found.items() if name[0] == "hsm_duration_seconds_sum") == 101 * 0.125
    assert found["series_folded", "durations"] == (100 - len(shown)) * 3 * 20


def test_a_key_store_with_durations_of_its_own_keeps_them(tmp_path: Path) -> None:
    """Otherwise the counters of ``other`` would fall, which Prometheus takes for a restart."""
    metrics = Metrics(tmp_path)
    for number in range(100):
        count(metrics, f"store-{number}")
    before = stores_with_durations(samples(metrics, 1000))
    late = next(f"store-{number}" for number in range(100) if f"store-{number}" not in before)
    count(metrics, late, 50)

    assert stores_with_durations(samples(metrics, 1000)) == before
    assert stores_with_durations(samples(Metrics(tmp_path), 1000)) <= before


def test_nothing_is_folded_below_the_limit(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for number in range(10):
        count(metrics, f"store-{number}")
    keys = [KeyCount("store-0", f"key-{number}", 1, number, 100, primary=True) for number in range(50)]

    found = samples(metrics, 2000, machine(keys))

    assert "other" not in {label for name in found for label in name}
    assert [value for name, value in found.items() if name[0] == "series_folded"] == [0, 0, 0]


def test_the_busiest_keys_have_series_and_the_rest_of_each_key_store_is_one(tmp_path: Path) -> None:
    keys = [
        KeyCount(f"store-{number % 2}", f"key-{number}", 1, 10_000 - number, 20_000, primary=True)
        for number in range(1000)
    ]

    found = samples(Metrics(tmp_path), 1000, machine(keys))

    encryptions = {name[1:]: value for name, value in found.items() if name[0] == "key_encryptions"}
    assert len(encryptions) < 340
    assert encryptions["key-0", "store-0", "1"] == 10_000
    sums = Counter[str]()
    for (_, keystore, _), value in encryptions.items():
        sums[keystore] += int(value)
    assert sums == Counter({f"store-{odd}": sum(10_000 - number for number in range(odd, 1000, 2)) for odd in (0, 1)})
    assert not any("other" in name for name in found if name[0] == "key_encryptions_limit")
    assert found["series_folded", "keys"] == 3 * 1000 - sum(name[0].startswith("key_") for name in found)


def test_the_oldest_credentials_have_series(tmp_path: Path) -> None:
    credentials = [CredentialInfo("store", f"ID{number}", 1000.0 - number, None) for number in range(1000)]

    found = samples(Metrics(tmp_path), 1000, machine((), credentials))

    created = {name[1]: value for name, value in found.items() if name[0] == "credential_created_timestamp_seconds"}
    assert 100 < len(created) < 600
    assert set(created) == {f"ID{number}" for number in range(1000 - len(created), 1000)}
    assert found["series_folded", "credentials"] == 2 * (1000 - len(created))

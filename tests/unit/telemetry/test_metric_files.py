"""The metrics of several workers as one, while workers end and files are damaged."""

import logging
import threading
import time
from pathlib import Path

import msgspec
import pytest

from xksproxy.telemetry import metric_files
from xksproxy.telemetry.definitions import (
    CLOCK_OFFSET,
    DECRYPTS,
    FAMILIES,
    HSM_CALL_SECONDS,
    HSM_RETURNS,
    LOADED_AT,
    REQUEST_DURATION,
    WORKERS,
)
from xksproxy.telemetry.metric_files import EndedWorkers, WorkerMetrics, read_totals
from xksproxy.telemetry.published_file import PublishedFile
from xksproxy.telemetry.series import CounterSeries, SeriesOf
from xksproxy.telemetry.totals import Published

NOBODY = Published("reader", time.monotonic(), {})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def publish(directory: Path, pid: int, at: float | None = None, **families: object) -> None:
    """Write the file of a worker."""
    now = time.monotonic() if at is None else at
    published = Published(f"id-{pid}", now, families)  # type: ignore[arg-type]
    PublishedFile(directory / f"metrics-{pid}.worker", 1000).write(msgspec.json.encode(published))


def count(directory: Path, name: str = HSM_RETURNS.name, labels: tuple[str, ...] = ("h",)) -> float | None:
    values = read_totals(directory, NOBODY).values(name).get(labels)
    return None if values is None else values[0]


def returns(number: float) -> dict[str, object]:
    return {HSM_RETURNS.name: [(("h",), [number])]}


def test_each_kind_of_metric_is_merged_in_its_way(tmp_path: Path) -> None:
    buckets = [0.0] * len(REQUEST_DURATION.edges)
    for pid, (value, at) in {11: (5.0, 200.0), 12: (3.0, 300.0), 13: (4.0, 100.0)}.items():
        gauge, offset = [((), [value, at])], [((), [-value, at])]
        hsm = [(("h",), [value, at])]
        counted = {HSM_RETURNS.name: [(("h",), [value])]}
        histogram = {REQUEST_DURATION.name: [(("s", "Encrypt"), [value, *buckets[1:], 10 * value])]}
        gauges = {WORKERS.name: gauge, LOADED_AT.name: gauge, CLOCK_OFFSET.name: offset, HSM_CALL_SECONDS.name: hsm}
        publish(tmp_path, pid, **gauges, **counted, **histogram)

    assert count(tmp_path) == 12
    assert count(tmp_path, WORKERS.name, ()) == 12
    assert count(tmp_path, LOADED_AT.name, ()) == 3
    assert count(tmp_path, HSM_CALL_SECONDS.name) == 5
    assert count(tmp_path, CLOCK_OFFSET.name, ()) == -5
    values = read_totals(tmp_path, NOBODY).values(REQUEST_DURATION.name)["s", "Encrypt"]
    assert values == [12, *buckets[1:], 120]


def test_gauges_of_a_worker_count_while_it_publishes_and_its_counters_always(tmp_path: Path) -> None:
    publish(tmp_path, 11, **returns(2), **{WORKERS.name: [((), [1, 1.0])]})
    publish(tmp_path, 12, time.monotonic() - 60, **returns(3), **{WORKERS.name: [((), [1, 1.0])]})

    assert (count(tmp_path), count(tmp_path, WORKERS.name, ())) == (5, 1)


def test_counts_of_ended_workers_stay_in_one_file_and_gauges_go(tmp_path: Path) -> None:
    ended = EndedWorkers(tmp_path)
    ended.prepare()
    for pid in range(1, 301):
        publish(tmp_path, pid, **returns(1), **{WORKERS.name: [((), [1, 1.0])]})
        ended.add(pid)

    assert names(tmp_path) == ["metrics-ended"]
    assert count(tmp_path) == 300
    assert count(tmp_path, WORKERS.name, ()) is None


def test_a_process_id_that_is_used_again_is_another_worker(tmp_path: Path) -> None:
    ended = EndedWorkers(tmp_path)
    for identity in ("first", "second"):
        published = Published(identity, time.monotonic(), returns(1))  # type: ignore[arg-type]
        PublishedFile(tmp_path / "metrics-11.worker", 1000).write(msgspec.json.encode(published))
        ended.add(11)

    assert count(tmp_path) == 2


def test_a_reader_never_sees_a_count_twice_or_not_at_all(tmp_path: Path) -> None:
    """Workers end while a reader reads: whatever it sees is what was counted."""
    ended, seen, done = EndedWorkers(tmp_path), [], threading.Event()
    ended.prepare()
    for pid in range(1, 201):
        publish(tmp_path, pid, **returns(1))

    def read() -> None:
        while not done.is_set():
            seen.append(count(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    for pid in range(1, 201):
        ended.add(pid)
    done.set()
    reader.join()

    assert set(seen) == {200}


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_worker_counts_once_while_its_file_is_still_there(tmp_path: Path, taken_over: bool) -> None:
    """The moment between the two steps of :meth:`EndedWorkers.add`, and a failure of the first."""
    publish(tmp_path, 11, **returns(7))
    kept = (tmp_path / "metrics-11.worker").read_bytes()
    ended = EndedWorkers(tmp_path)
    if taken_over:
        ended.add(11)
        (tmp_path / "metrics-11.worker").write_bytes(kept)

    assert count(tmp_path) == 7


def test_what_cannot_be_written_of_ended_workers_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = EndedWorkers(tmp_path)
    publish(tmp_path, 11, **returns(7))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metric_files.PublishedFile, "write", refuse)
        ended.add(11)
        ended.add(11)
        assert count(tmp_path) == 7
    ended.retry()

    assert names(tmp_path) == ["metrics-ended"]
    assert count(tmp_path) == 7


def test_series_of_ended_workers_are_bounded(tmp_path: Path) -> None:
    ended = EndedWorkers(tmp_path)
    for pid in range(1, 8):
        publish(tmp_path, pid, **{DECRYPTS.name: [(("s", f"key {pid} {number}", "p"), [1]) for number in range(100)]})
        ended.add(pid)

    values = read_totals(tmp_path, NOBODY).values(DECRYPTS.name)
    assert len(values) == 501
    assert values["s", "other", "other"] == [200]


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xff" * 2000])
@pytest.mark.parametrize("name", ["metrics-12.worker", "metrics-ended"])
def test_a_damaged_file_is_set_aside_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    publish(tmp_path, 11, **returns(7))
    (tmp_path / name).write_bytes(content)

    with caplog.at_level(logging.WARNING):
        assert [count(tmp_path) for _ in range(3)] == [7, 7, 7]

    assert [record.getMessage() for record in caplog.records] == ["metrics file set aside"]
    assert (tmp_path / f"{name}.unreadable").read_bytes() == content


def test_what_is_whole_but_no_metrics_is_set_aside_too(tmp_path: Path) -> None:
    PublishedFile(tmp_path / "metrics-12.worker", 100).write(b'["id", 1.0, {"a": 1}]')

    assert count(tmp_path) is None
    assert names(tmp_path) == ["metrics-12.worker.unreadable"]


def test_after_its_file_was_set_aside_a_process_makes_it_anew(tmp_path: Path) -> None:
    series = SeriesOf(HSM_RETURNS, CounterSeries)
    series.labels("h").inc(3)
    worker, ended = WorkerMetrics(tmp_path, [series]), EndedWorkers(tmp_path)
    publish(tmp_path, 11, **returns(4))
    worker.publish()
    ended.add(11)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert count(tmp_path) is None

    worker.publish()
    ended.retry()

    assert count(tmp_path) == 7


def test_a_worker_that_cannot_write_its_file_says_why_and_its_own_counts_are_there(tmp_path: Path) -> None:
    series = SeriesOf(HSM_RETURNS, CounterSeries)
    worker = WorkerMetrics(tmp_path / "missing", [series])

    worker.publish()
    assert worker.problem == "No such file or directory"
    series.labels("h").inc()
    assert read_totals(tmp_path / "missing", worker.current()).values(HSM_RETURNS.name) == {("h",): [1]}

    (tmp_path / "missing").mkdir()
    worker.publish()
    assert worker.problem == ""


def test_every_metric_has_a_name_of_its_own() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)

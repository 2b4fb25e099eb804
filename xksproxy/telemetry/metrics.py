"""The metrics of the proxy: each worker counts, and publishes its counts for all.

Where KMS publishes a CloudWatch metric of the same meaning, the help text names it (:mod:`.definitions`).
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from xksproxy.config.model import Metrics as MetricsSettings
from xksproxy.printable import printable
from xksproxy.telemetry import definitions
from xksproxy.telemetry.collectors import FoldedCollector, MachineCollector
from xksproxy.telemetry.metric_files import WorkerMetrics, read_totals
from xksproxy.telemetry.series import OTHER, CounterSeries, GaugeSeries, HistogramSeries, SeriesOf
from xksproxy.telemetry.series_budget import ShownStores, allot
from xksproxy.telemetry.totals import Totals

Encoder = Callable[[CollectorRegistry], bytes]
_REQUEST_DURATION: Final = definitions.REQUEST_DURATION.name
_DURATIONS: Final = tuple(
    family.name for family in (definitions.REQUEST_DURATION, definitions.QUEUE_DURATION, definitions.HSM_DURATION)
)
DURATIONS: Final = "durations"


class Metrics:
    """The metrics of one worker. The number of series is bounded, whatever callers send.

    Other processes see them after :meth:`publish`.
    """

    def __init__(self, directory: Path) -> None:
        """Share them in ``directory``. Call it in the worker process."""
        self._directory = directory
        self._define_request_metrics()
        self._define_worker_metrics()
        self._define_hsm_metrics()
        self._request_series: dict[tuple[str, str, str, str | None], tuple[CounterSeries, HistogramSeries]] = {}
        self._hsm_series: dict[tuple[str, str], tuple[HistogramSeries, HistogramSeries]] = {}
        self._condition_labels: set[tuple[str, ...]] = set()
        metrics = [metric for metric in vars(self).values() if isinstance(metric, SeriesOf)]
        self._file = WorkerMetrics(directory, metrics, with_exemplars=self._request_duration)
        self._shown = ShownStores(directory)
        self._counted = 0
        """Requests, and other events that are counted, so far."""

    def _define_request_metrics(self) -> None:
        self._requests = SeriesOf(definitions.REQUESTS, CounterSeries)
        self._request_duration = SeriesOf(definitions.REQUEST_DURATION, HistogramSeries)
        self._queue_duration = SeriesOf(definitions.QUEUE_DURATION, HistogramSeries)
        self._hsm_duration = SeriesOf(definitions.HSM_DURATION, HistogramSeries)
        self._decrypts = SeriesOf(definitions.DECRYPTS, CounterSeries)

    def _define_worker_metrics(self) -> None:
        self.audit_dropped = SeriesOf(definitions.AUDIT_DROPPED, CounterSeries)
        self._proxy_protocol_refusals = SeriesOf(definitions.PROXY_PROTOCOL_REFUSALS, CounterSeries)
        self.in_flight = SeriesOf(definitions.IN_FLIGHT, GaugeSeries)
        self.connections = SeriesOf(definitions.CONNECTIONS, GaugeSeries)
        self.workers = SeriesOf(definitions.WORKERS, GaugeSeries)
        self.workers_ready = SeriesOf(definitions.WORKERS_READY, GaugeSeries)
        self.reload_failed = SeriesOf(definitions.RELOAD_FAILED, GaugeSeries)
        self._conditions = SeriesOf(definitions.CONDITIONS, GaugeSeries)
        self.loaded_at = SeriesOf(definitions.LOADED_AT, GaugeSeries)
        self.config_number = SeriesOf(definitions.CONFIG_NUMBER, GaugeSeries)
        self.config_accepted_number = SeriesOf(definitions.CONFIG_ACCEPTED_NUMBER, GaugeSeries)
        self.config_files_differ = SeriesOf(definitions.CONFIG_FILES_DIFFER, GaugeSeries)
        self.clock_offset = SeriesOf(definitions.CLOCK_OFFSET, GaugeSeries)

    def _define_hsm_metrics(self) -> None:
        self.hsm_state = SeriesOf(definitions.HSM_STATE, GaugeSeries)
        self.hsm_sessions = SeriesOf(definitions.HSM_SESSIONS, GaugeSeries)
        self.hsm_call_seconds = SeriesOf(definitions.HSM_CALL_SECONDS, GaugeSeries)
        self.hsm_too_slow = SeriesOf(definitions.HSM_TOO_SLOW, GaugeSeries)
        self.hsm_returns = SeriesOf(definitions.HSM_RETURNS, CounterSeries)

    @property
    def problem(self) -> str:
        """Why other processes do not see these metrics; empty if they do."""
        return self._file.problem

    def count_request(
        self,
        *,
        keystore: str,
        kms_operation: str,
        xks_operation: str,
        exception: str | None,
        seconds: float,
        queue_seconds: float,
        hsm_seconds: float,
        trace_id: str | None = None,
    ) -> None:
        """Count an answered request. ``keystore`` and ``xks_operation`` are empty if its path is not valid."""
        operation = kms_operation if not kms_operation or kms_operation in definitions.KMS_OPERATIONS else OTHER
        labels = keystore, operation, xks_operation, exception
        requests, duration = self._request_series.get(labels) or self._new_request_series(*labels)
        self._counted += 1
        requests.inc()
        duration.observe(seconds, trace_id)
        if hsm_seconds:
            hsm_labels = keystore, xks_operation
            queue, hsm = self._hsm_series.get(hsm_labels) or self._new_hsm_series(*hsm_labels)
            queue.observe(queue_seconds)
            hsm.observe(hsm_seconds)

    def _new_request_series(
        self, keystore: str, operation: str, xks_operation: str, exception: str | None
    ) -> tuple[CounterSeries, HistogramSeries]:
        """The counter and histogram for requests with these labels. They are kept, because each look-up costs time."""
        retryable = exception in definitions.RETRYABLE
        error_type = "none" if exception is None else "retryable" if retryable else "non_retryable"
        series = self._request_series[keystore, operation, xks_operation, exception] = (
            self._requests.labels(keystore, operation, xks_operation, error_type, exception or "None"),
            self._request_duration.labels(keystore, xks_operation),
        )
        return series

    def _new_hsm_series(self, keystore: str, xks_operation: str) -> tuple[HistogramSeries, HistogramSeries]:
        """The histograms for the times of requests that used an HSM."""
        series = self._hsm_series[keystore, xks_operation] = (
            self._queue_duration.labels(keystore, xks_operation),
            self._hsm_duration.labels(keystore, xks_operation),
        )
        return series

    def count_decrypt(self, keystore: str, key_id: str, principal: str) -> None:
        """Count a Decrypt that succeeded.

        A worker keeps 500 combinations of key store, key and principal. Others count as key and principal ``other``.
        """
        self._decrypts.labels(keystore, key_id, principal_of(principal)).inc()

    def count_proxy_protocol_refusal(self, cause: str) -> None:
        """Count a connection that was closed because of the PROXY protocol. There are few causes."""
        self._proxy_protocol_refusals.labels(cause).inc()

    def set_conditions(self, subjects: Collection[tuple[str, ...]]) -> None:
        """Set the gauge of conditions: severity, cause, key store and HSM of each that is present."""
        for subject in self._condition_labels.difference(subjects):
            self._conditions.labels(*subject).set(0)
        for subject in subjects:
            self._conditions.labels(*subject).set(1)
        self._condition_labels.update(subjects)

    def publish(self) -> None:
        """Let all processes see the present values. Call it once a second, on a thread."""
        self._file.publish(self._counted)

    def publish_now(self) -> None:
        """The same, whatever it costs."""
        self._file.publish()

    def latency(self) -> list[dict[str, Any]]:
        """Return latency percentiles by operation, over all key stores and workers, as upper bounds of buckets."""
        counts: dict[str, list[float]] = {}
        for (_, operation), values in self._totals().values(_REQUEST_DURATION).items():
            if operation:
                before = counts.get(operation) or [0.0] * len(values)
                counts[operation] = [one + other for one, other in zip(before, values, strict=True)]
        return [_latency(operation, values[:-1]) for operation, values in sorted(counts.items())]

    def render(
        self,
        machine: MachineCollector | None = None,
        encode: Encoder = generate_latest,
        most_series: int = MetricsSettings().max_series,
    ) -> bytes:
        """Return the metrics of all workers and of the machine, in Prometheus's text format or another one.

        Above ``most_series``, durations by key store, keys and credentials are folded into fewer series.
        """
        totals = self._totals()
        registry = CollectorRegistry()
        registry.register(_Collected(totals))
        wanted = {DURATIONS: _duration_series(totals), **({} if machine is None else machine.series())}
        allotted = allot(wanted, most_series - sum(totals.count_series().values()) + wanted[DURATIONS])
        folded = {DURATIONS: self._fold_durations(totals, allotted[DURATIONS])}
        if machine is not None:
            folded |= machine.fold(allotted)
            registry.register(machine)
        registry.register(FoldedCollector(folded))
        return encode(registry)

    def _fold_durations(self, totals: Totals, most: int) -> int:
        """Fold the durations of key stores until at most so many series are left; returns by how many they are less."""
        before = _duration_series(totals)
        if before <= most:
            return 0
        counts: Counter[str] = Counter()
        series: Counter[str] = Counter()
        for name in _DURATIONS:
            for (keystore, _), values in totals.values(name).items():
                series[keystore] += totals.series_in(name)
                counts[keystore] += int(sum(values[:-1])) if name == _REQUEST_DURATION else 0
        room = most // max(series.values()) - 1  # one is "other"
        kept = self._shown.choose((keystore for keystore, _ in counts.most_common()), room)
        for name in _DURATIONS:
            totals.fold(name, kept)
        return before - _duration_series(totals)

    def _totals(self) -> Totals:
        return read_totals(self._directory, self._file.current())


class _Collected(Collector):
    """Totals as a collector of prometheus-client."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        return self._totals.collect()


def _duration_series(totals: Totals) -> int:
    counted = totals.count_series()
    return sum(counted[name] for name in _DURATIONS)


def principal_of(arn: str) -> str:
    """Return a principal ARN without its session name: ``arn:aws:sts::1:assumed-role/Role/session`` ends at Role."""
    head, separator, rest = arn.partition(":assumed-role/")
    if separator:
        arn = f"{head}{separator}{rest.partition('/')[0]}"
    return printable(arn[:256])


def _latency(operation: str, counts: Sequence[float]) -> dict[str, Any]:
    """``counts`` are the numbers of requests in each bucket alone."""
    edges = definitions.REQUEST_DURATION.edges
    count = sum(counts)

    def up_to(edge: float) -> float:
        return sum(number for other, number in zip(edges, counts, strict=True) if other <= edge)

    def within(share: float) -> str:
        edge = next(edge for edge in edges if up_to(edge) >= share * count)
        return f"{1000 * edge:g}" if edge < math.inf else f"more than {1000 * edges[-2]:g}"

    return {
        "operation": operation,
        "count": int(count),
        "p50_ms": within(0.5),
        "p99_ms": within(0.99),
        "p999_ms": within(0.999),
        "over_250_ms": int(count - up_to(0.25)),
    }

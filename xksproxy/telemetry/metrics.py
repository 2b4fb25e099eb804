"""Prometheus metrics: each worker counts, and a scrape merges the counts of all workers.

Where KMS publishes a CloudWatch metric of the same meaning, the help text names it.
"""

import math
import os
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from xksproxy.telemetry.counters import BufferedCounter, BufferedHistogram

_BUCKETS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25),
    *(0.5, 1.0),
)
_KMS_OPERATIONS: Final = frozenset(
    {
        "CancelKeyDeletion",
        "ConnectCustomKeyStore",
        "CreateCustomKeyStore",
        "CreateKey",
        "Decrypt",
        "DescribeKey",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "KmsHealthCheck",
        "ReEncrypt",
        "UpdateCustomKeyStore",
    }
)
_RETRYABLE: Final = frozenset({"InternalException", "DependencyTimeoutException", "ThrottlingException"})
_MAXIMUM_DECRYPT_LABELS: Final = 500
_OTHER: Final = "other"


def forget_worker(directory: Path, pid: int) -> None:
    """Remove the gauges of a worker that has ended. Its counters and histograms stay."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one worker. The number of series is bounded, whatever callers send.

    Counts of requests are visible to other processes after :meth:`flush`.
    """

    def __init__(self, directory: Path) -> None:
        """Count into files of ``directory``. Call it once, in the worker process."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._directory = directory
        self._counters: dict[tuple[Counter, tuple[str, ...]], BufferedCounter] = {}
        self._histograms: dict[tuple[str, ...], BufferedHistogram] = {}
        self._request_metrics: dict[tuple[str, str, str, str | None], tuple[BufferedCounter, BufferedHistogram]] = {}
        self._hsm_metrics: dict[tuple[str, str], tuple[BufferedHistogram, BufferedHistogram]] = {}
        self._condition_labels: set[tuple[str, ...]] = set()
        self._decrypt_labels: set[tuple[str, str, str]] = set()
        registry = CollectorRegistry()
        self._define_request_metrics(registry)
        self._define_worker_metrics(registry)
        self._define_hsm_metrics(registry)

    def _define_request_metrics(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "xksproxy_requests",
            "Requests answered (CloudWatch: XksProxyErrors, which counts all of them).",
            ("keystore", "kms_operation", "xks_operation", "error_type", "exception"),
            registry=registry,
        )
        self._durations = {
            part: Histogram(
                f"xksproxy_{part}_duration_seconds",
                text,
                ("keystore", "xks_operation"),
                buckets=_BUCKETS,
                registry=registry,
            )
            for part, text in (
                ("request", "From the head of a request to its response (CloudWatch: XksProxyLatency)."),
                ("queue", "The part of it that the request waited for an HSM session."),
                ("hsm", "The part of it that the request spent in HSM sessions."),
            )
        }
        self._decrypts = Counter(
            "xksproxy_decrypts",
            "Decrypts that succeeded, by external key and principal. Sessions of a role count as the role.",
            ("keystore", "key_id", "principal"),
            registry=registry,
        )
        self.audit_dropped = Counter(
            "xksproxy_audit_lines_dropped",
            "Audit lines that were dropped because too many lines waited.",
            registry=registry,
        )

    def _define_worker_metrics(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        self.in_flight = gauge("xksproxy_requests_in_flight", "Authenticated requests in progress.")
        self.connections = gauge("xksproxy_connections", "Open connections to the public port.")
        self.workers = gauge("xksproxy_workers", "Worker processes that serve.")
        self.workers_ready = gauge(
            "xksproxy_workers_ready", "Worker processes whose /readyz is 200; see [health] ready_when."
        )
        self.reload_failed = gauge(
            "xksproxy_config_reload_failed",
            "Workers whose last reload was refused. They use the configuration before it.",
        )
        self._conditions = gauge(
            "xksproxy_conditions",
            "Workers that report a condition: what is wrong with the machine, an HSM or a key store.",
            ("severity", "cause", "keystore", "hsm"),
        )
        self.loaded_at = Gauge(
            "xksproxy_config_loaded_timestamp_seconds",
            "When the configuration in use was loaded.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.clock_offset = Gauge(
            "xksproxy_clock_offset_seconds",
            "Median number of seconds by which this machine's clock is ahead of the times of the latest signatures.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._proxy_protocol_refusals = Counter(
            "xksproxy_proxy_protocol_refusals",
            "Connections that were closed because their PROXY protocol header was missing, wrong or not expected.",
            ("cause",),
            registry=registry,
        )

    def _define_hsm_metrics(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        self.hsm_state = gauge(
            "xksproxy_hsm_state",
            "Workers that see an HSM in a state (CloudWatch: XksExternalKeyManagerStates).",
            ("hsm", "state"),
        )
        self.hsm_sessions = gauge(
            "xksproxy_hsm_sessions",
            "HSM sessions that are idle, busy, or stuck in a call that does not return.",
            ("hsm", "state"),
        )
        self.hsm_call_seconds = Gauge(
            "xksproxy_hsm_call_seconds",
            "How long a GCM call takes inside the module at present, in the slowest worker.",
            ("hsm",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.hsm_too_slow = gauge(
            "xksproxy_hsm_too_slow_to_verify",
            "Workers in which two calls exceed the deadline, so that no Encrypt with an integrity value can succeed.",
            ("hsm",),
        )
        self.hsm_returns = Counter(
            "xksproxy_hsm_returns_to_service",
            "Times that an HSM came into service in a worker, including the first one.",
            ("hsm",),
            registry=registry,
        )

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
    ) -> None:
        """Count an answered request. ``keystore`` and ``xks_operation`` are empty if its path is not valid."""
        operation = kms_operation if not kms_operation or kms_operation in _KMS_OPERATIONS else _OTHER
        labels = keystore, operation, xks_operation, exception
        requests, duration = self._request_metrics.get(labels) or self._new_request_metrics(*labels)
        requests.inc()
        duration.observe(seconds)
        if hsm_seconds:
            hsm_labels = keystore, xks_operation
            queue, hsm = self._hsm_metrics.get(hsm_labels) or self._new_hsm_metrics(*hsm_labels)
            queue.observe(queue_seconds)
            hsm.observe(hsm_seconds)

    def set_conditions(self, subjects: Collection[tuple[str, ...]]) -> None:
        """Set the gauge of conditions: severity, cause, key store and HSM of each that is present."""
        for subject in self._condition_labels.difference(subjects):
            self._conditions.labels(*subject).set(0)
        for subject in subjects:
            self._conditions.labels(*subject).set(1)
        self._condition_labels.update(subjects)

    def flush(self) -> None:
        """Make the counts visible to all processes. Call it once a second, and before a scrape is answered."""
        for counter in self._counters.values():
            counter.flush()
        for histogram in self._histograms.values():
            histogram.flush()

    def _new_request_metrics(
        self, keystore: str, operation: str, xks_operation: str, exception: str | None
    ) -> tuple[BufferedCounter, BufferedHistogram]:
        """The counter and histogram for requests with these labels. They are kept, because each look-up costs time."""
        error_type = "none" if exception is None else "retryable" if exception in _RETRYABLE else "non_retryable"
        metrics = self._request_metrics[keystore, operation, xks_operation, exception] = (
            self._counter(self._requests, keystore, operation, xks_operation, error_type, exception or "None"),
            self._histogram("request", keystore, xks_operation),
        )
        return metrics

    def _new_hsm_metrics(self, keystore: str, xks_operation: str) -> tuple[BufferedHistogram, BufferedHistogram]:
        """The histograms for the times of requests that used an HSM."""
        metrics = self._hsm_metrics[keystore, xks_operation] = (
            self._histogram("queue", keystore, xks_operation),
            self._histogram("hsm", keystore, xks_operation),
        )
        return metrics

    def _counter(self, metric: Counter, *labels: str) -> BufferedCounter:
        buffered = self._counters.get((metric, labels))
        if buffered is None:
            buffered = self._counters[metric, labels] = BufferedCounter(metric.labels(*labels))
        return buffered

    def _histogram(self, part: str, *labels: str) -> BufferedHistogram:
        key = (part, *labels)
        buffered = self._histograms.get(key)
        if buffered is None:
            child = self._durations[part].labels(*labels)
            buffered = self._histograms[key] = BufferedHistogram(child, (*_BUCKETS, math.inf))
        return buffered

    def count_decrypt(self, keystore: str, key_id: str, principal: str) -> None:
        """Count a Decrypt that succeeded.

        A worker keeps 500 combinations of key store, key and principal. Others count as key and principal ``other``.
        """
        labels = (keystore, key_id, principal_of(principal))
        if labels not in self._decrypt_labels:
            if len(self._decrypt_labels) >= _MAXIMUM_DECRYPT_LABELS:
                labels = (keystore, _OTHER, _OTHER)
            self._decrypt_labels.add(labels)
        self._counter(self._decrypts, *labels).inc()

    def count_proxy_protocol_refusal(self, cause: str) -> None:
        """Count a connection that was closed because of the PROXY protocol. There are few causes."""
        self._counter(self._proxy_protocol_refusals, cause).inc()

    def latency(self) -> list[dict[str, Any]]:
        """Return latency percentiles by operation, over all key stores and workers, as upper bounds of buckets."""
        collected = {metric.name: metric for metric in MultiProcessCollector(None, str(self._directory)).collect()}  # type: ignore[no-untyped-call]
        family = collected.get("xksproxy_request_duration_seconds")
        buckets: dict[str, dict[float, float]] = {}
        for sample in family.samples if family else ():
            operation = sample.labels["xks_operation"]
            if sample.name.endswith("_bucket") and operation:
                edges = buckets.setdefault(operation, {})
                edge = float(sample.labels["le"])
                edges[edge] = edges.get(edge, 0.0) + sample.value
        return [_latency(operation, edges) for operation, edges in sorted(buckets.items())]

    def render(self, collectors: Iterable[Collector]) -> bytes:
        """Return the metrics of all workers and of ``collectors``, in Prometheus's text format."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]
        for collector in collectors:
            registry.register(collector)
        return generate_latest(registry)


def principal_of(arn: str) -> str:
    """Return a principal ARN without its session name: ``arn:aws:sts::1:assumed-role/Role/session`` ends at Role."""
    head, separator, rest = arn.partition(":assumed-role/")
    if separator:
        arn = f"{head}{separator}{rest.partition('/')[0]}"
    return arn[:256]


def _latency(operation: str, edges: dict[float, float]) -> dict[str, Any]:
    count = edges[math.inf]

    def within(share: float) -> str:
        edge = next(edge for edge in sorted(edges) if edges[edge] >= share * count)
        return f"{1000 * edge:g}" if edge < math.inf else f"more than {1000 * _BUCKETS[-1]:g}"

    return {
        "operation": operation,
        "count": int(count),
        "p50_ms": within(0.5),
        "p99_ms": within(0.99),
        "p999_ms": within(0.999),
        "over_250_ms": int(count - edges[0.25]),
    }

"""Prometheus metrics, counted in each worker and merged over all of them when they are read.

They mirror the CloudWatch metrics that KMS publishes for external key stores, where those have a counterpart.
"""

import math
import os
from collections.abc import Iterable
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
_MAXIMUM_DECRYPTERS: Final = 500
_OTHER: Final = "other"


def forget_worker(directory: Path, pid: int) -> None:
    """Take what a worker that has ended said of its present out of the sums; what it counted stays."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one worker. The number of series is bounded, whatever callers send.

    What it counts of requests is for others to see once :meth:`flush` was called.
    """

    def __init__(self, directory: Path) -> None:
        """Count into files of ``directory``; call it in the process that serves, once."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._directory = directory
        self._counters: dict[tuple[Counter, tuple[str, ...]], BufferedCounter] = {}
        self._histograms: dict[tuple[str, ...], BufferedHistogram] = {}
        self._answered: dict[tuple[str, str, str, str | None], tuple[BufferedCounter, BufferedHistogram]] = {}
        self._asked: dict[tuple[str, str], tuple[BufferedHistogram, BufferedHistogram]] = {}
        registry = CollectorRegistry()
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
                ("request", "From a request's head to its answer (CloudWatch: XksProxyLatency)."),
                ("queue", "Part of it that was spent waiting for an HSM session."),
                ("hsm", "Part of it that was spent in HSM sessions."),
            )
        }
        self._decrypts = Counter(
            "xksproxy_decrypts",
            "Decrypts that succeeded, by external key and principal; sessions of a role count as the role.",
            ("keystore", "key_id", "principal"),
            registry=registry,
        )
        self._decrypters: set[tuple[str, str, str]] = set()
        self.in_flight = Gauge(
            "xksproxy_requests_in_flight",
            "Authenticated requests in progress.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.connections = Gauge(
            "xksproxy_connections",
            "Open connections to the public port.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.workers = Gauge(
            "xksproxy_workers", "Worker processes that serve.", registry=registry, multiprocess_mode="livesum"
        )
        self.workers_ready = Gauge(
            "xksproxy_workers_ready",
            "Worker processes in which every key store has an HSM that serves.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.audit_dropped = Counter(
            "xksproxy_audit_lines_dropped", "Audit lines that were not written for want of room.", registry=registry
        )
        self.hsm_state = Gauge(
            "xksproxy_hsm_state",
            "Workers that see an HSM in a state (CloudWatch: XksExternalKeyManagerStates).",
            ("hsm", "state"),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.hsm_sessions = Gauge(
            "xksproxy_hsm_sessions",
            "HSM sessions by what they do: idle, busy, or stuck in a call that does not return.",
            ("hsm", "state"),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.hsm_call_seconds = Gauge(
            "xksproxy_hsm_call_seconds",
            "How long a GCM call takes inside the module at present, in the slowest worker.",
            ("hsm",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.hsm_too_slow = Gauge(
            "xksproxy_hsm_too_slow_to_verify",
            "Workers in which two calls exceed the deadline, so that no Encrypt with an integrity value can succeed.",
            ("hsm",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.hsm_returns = Counter(
            "xksproxy_hsm_returns_to_service",
            "Times that an HSM came into service in a worker, the first one included.",
            ("hsm",),
            registry=registry,
        )
        self.reload_failed = Gauge(
            "xksproxy_config_reload_failed",
            "Workers whose last reload was refused; they serve by the configuration before it.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.loaded_at = Gauge(
            "xksproxy_config_loaded_timestamp_seconds",
            "When the configuration in use was loaded.",
            registry=registry,
            multiprocess_mode="livemin",
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
        """Count an answered request. ``keystore`` and ``xks_operation`` are empty where its path named none."""
        operation = kms_operation if not kms_operation or kms_operation in _KMS_OPERATIONS else _OTHER
        kind = keystore, operation, xks_operation, exception
        requests, duration = self._answered.get(kind) or self._first_answered(*kind)
        requests.inc()
        duration.observe(seconds)
        if hsm_seconds:
            place = keystore, xks_operation
            queue, hsm = self._asked.get(place) or self._first_asked(*place)
            queue.observe(queue_seconds)
            hsm.observe(hsm_seconds)

    def flush(self) -> None:
        """Let all processes see what was counted; call it once a second, and before a scrape is answered."""
        for counter in self._counters.values():
            counter.flush()
        for histogram in self._histograms.values():
            histogram.flush()

    def _first_answered(
        self, keystore: str, operation: str, xks_operation: str, exception: str | None
    ) -> tuple[BufferedCounter, BufferedHistogram]:
        """What counts requests that are answered alike, found once: the tables of all counters and histograms cost."""
        error_type = "none" if exception is None else "retryable" if exception in _RETRYABLE else "non_retryable"
        tallies = self._answered[keystore, operation, xks_operation, exception] = (
            self._counter(self._requests, keystore, operation, xks_operation, error_type, exception or "None"),
            self._histogram("request", keystore, xks_operation),
        )
        return tallies

    def _first_asked(self, keystore: str, xks_operation: str) -> tuple[BufferedHistogram, BufferedHistogram]:
        """What counts the time of requests that an HSM was asked for."""
        tallies = self._asked[keystore, xks_operation] = (
            self._histogram("queue", keystore, xks_operation),
            self._histogram("hsm", keystore, xks_operation),
        )
        return tallies

    def _counter(self, metric: Counter, *labels: str) -> BufferedCounter:
        tally = self._counters.get((metric, labels))
        if tally is None:
            tally = self._counters[metric, labels] = BufferedCounter(metric.labels(*labels))
        return tally

    def _histogram(self, part: str, *labels: str) -> BufferedHistogram:
        key = (part, *labels)
        tally = self._histograms.get(key)
        if tally is None:
            child = self._durations[part].labels(*labels)
            tally = self._histograms[key] = BufferedHistogram(child, (*_BUCKETS, math.inf))
        return tally

    def count_decrypt(self, keystore: str, key_id: str, principal: str) -> None:
        """Count a Decrypt that succeeded; beyond 500 keys and principals in a worker, the principal is ``other``."""
        labels = (keystore, key_id, principal_of(principal))
        if labels not in self._decrypters:
            if len(self._decrypters) >= _MAXIMUM_DECRYPTERS:
                labels = (keystore, _OTHER, _OTHER)
            self._decrypters.add(labels)
        self._counter(self._decrypts, *labels).inc()

    def latency(self) -> list[dict[str, Any]]:
        """By operation, over all key stores and workers: the bucket edges below which shares of the requests lie."""
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
        """All workers' metrics, and those that ``collectors`` make now, in Prometheus's text format."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]
        for collector in collectors:
            registry.register(collector)
        return generate_latest(registry)


def principal_of(arn: str) -> str:
    """A principal without the name of its session: ``arn:aws:sts::1:assumed-role/Role/session`` is the role's."""
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

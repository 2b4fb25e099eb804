"""Records each request: its audit line, its metrics, and the recent refusals."""

import logging
import time
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from xksproxy.deadline import Deadline
from xksproxy.keystore.blocks import BlockChange
from xksproxy.request_stats import EndedRequest, RequestStats
from xksproxy.server.stranger_sums import StrangerSums
from xksproxy.server.worker_status import Refusal
from xksproxy.sigv4.verify import SignedAtAnotherTime
from xksproxy.spec.errors import XksError
from xksproxy.spec.messages import ReceivedMetadata
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.clock import ClockObservations
from xksproxy.telemetry.lines import escape
from xksproxy.telemetry.metrics import Metrics
from xksproxy.telemetry.tracer import Tracer

_log: Final = logging.getLogger(__name__)
_LOGGED_CHARACTERS: Final = 2048
_REMEMBERED_REFUSALS: Final = 200
_LEAST_SYNC_SECONDS: Final = 0.02
_XKS_OPERATIONS: Final = {
    Operation.ENCRYPT: "Encrypt",
    Operation.DECRYPT: "Decrypt",
    Operation.GET_KEY_METADATA: "GetKeyMetadata",
    Operation.GET_HEALTH_STATUS: "GetHealthStatus",
}


class RequestRecord(msgspec.Struct):
    """The data about one request, as far as it is known. It never contains a secret."""

    peer: str | None
    started: float
    """On the monotonic clock."""

    tls_client_name: str | None = None
    keystore: str = ""
    operation: Operation | None = None
    key_id: str = ""
    access_key_id: str | None = None
    region: str | None = None
    metadata: ReceivedMetadata = ReceivedMetadata()
    stats: RequestStats = msgspec.field(default_factory=RequestStats)
    status: int = 200
    error: str | None = None
    error_message: str | None = None
    reason: str | None = None
    clock_offset: float | None = None
    """Seconds by which this machine's clock was ahead of the time of a correct signature."""

    vpc_endpoint_id: str | None = None
    """The VPC endpoint of the connection, from the load balancer's PROXY protocol header."""

    trace_id: str | None = None
    """Its trace, if it is traced."""

    def refuse(self, error: XksError) -> None:
        """Note an error of the API."""
        self.error, self.error_message, self.reason = error.name, error.message, error.detail or None
        if isinstance(error, SignedAtAnotherTime):
            self.clock_offset = error.clock_offset

    @property
    def of_stranger(self) -> bool:
        """Whether it has neither a valid signature nor a client certificate. Only a signature sets the Region."""
        return self.region is None and self.tls_client_name is None

    @property
    def refused_for_its_time(self) -> bool:
        """Whether only the time of the signature was wrong."""
        return self.clock_offset is not None and self.access_key_id is None

    def line(self, seconds: float) -> dict[str, Any]:
        """The fields of its audit line. Unknown fields are left out."""
        stats = self.stats
        fields = {
            "peer": self.peer,
            "vpc_endpoint_id": self.vpc_endpoint_id,
            "tls_client_name": self.tls_client_name,
            "keystore": self.keystore or None,
            "operation": None if self.operation is None else _XKS_OPERATIONS[self.operation],
            "key_id": self.key_id[:_LOGGED_CHARACTERS] or None,
            "key_version": stats.key_version,
            "access_key_id": self.access_key_id,
            "region": self.region,
            "request_metadata": self.metadata.members or None,
            "request_metadata_left_out": self.metadata.left_out or None,
            "hsms": stats.hsms or None,
            "status": self.status,
            "error": self.error,
            "error_message": self.error_message,
            "reason": self.reason,
            "authorization": stats.authorization,
            "ms": _milliseconds(seconds),
            "queue_ms": _milliseconds(stats.queue_seconds) if stats.hsms else None,
            "hsm_ms": _milliseconds(stats.hsm_seconds) if stats.hsms else None,
            "trace_id": self.trace_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _milliseconds(seconds: float) -> float:
    """With two decimals. ``round`` takes several times as long."""
    return int(100_000 * seconds + 0.5) / 100


def _trace(tracer: Tracer, record: RequestRecord, seconds: float) -> str | None:
    """Trace a request if it is to be traced, and return the trace id. No attribute is secret."""
    operation = "request" if record.operation is None else _XKS_OPERATIONS[record.operation]
    attributes = {
        "xksproxy.keystore": record.keystore or None,
        "xksproxy.key_id": record.key_id or None,
        "xksproxy.key_version": record.stats.key_version,
        "kmsRequestId": record.metadata.members.get("kmsRequestId"),
        "kmsOperation": record.metadata.members.get("kmsOperation"),
        "http.response.status_code": record.status,
        "error.type": record.error,
    }
    calls = record.stats.calls or ()
    return tracer.trace(EndedRequest(operation, record.started, seconds, attributes, calls, record.error))


class Recorder:
    """Records the requests of one worker. Belongs to its event loop."""

    def __init__(self, audit: AuditLog, metrics: Metrics, tracer: Tracer | None = None) -> None:
        self.metrics = metrics
        self._tracer = tracer
        self.traces = tracer is not None
        """Whether requests may be traced, so that their calls must be collected."""
        self.audit = audit
        self.refusals: deque[Refusal] = deque(maxlen=_REMEMBERED_REFUSALS)
        self.in_flight = 0
        """Authenticated requests in progress."""
        self.clock = ClockObservations()
        self._clock_is_wrong = False
        self._dropped = 0
        self._strangers = StrangerSums()

    @property
    def problem(self) -> str:
        """Why requests are refused because they cannot be recorded; empty if they are not refused."""
        if not self.audit.refuses:
            return ""
        return self.audit.problem or "it is not known yet whether the audit log can be written"

    async def write_line(self, record: RequestRecord, deadline: Deadline) -> bool:
        """Write the line of a request, and trace it. Returns whether the answer may be sent.

        With ``[audit] sync``, a request with a valid signature may be answered when its line is on disk, which this
        waits for until the deadline, or for 20 ms if less is left.
        """
        now = time.monotonic()
        seconds = now - record.started
        if self._tracer is not None and not record.of_stranger:
            record.trace_id = _trace(self._tracer, record, seconds)
        if record.region is not None and self.audit.syncs:
            left = max(deadline.remaining(), _LEAST_SYNC_SECONDS)
            return await self.audit.write_to_disk("request", partial(record.line, seconds), left)
        if record.of_stranger and not self._strangers.has_line(now):
            self._strangers.add(record.peer, record.keystore, record.error, record.reason)
        else:
            self.audit.write("request", partial(record.line, seconds))
        return True

    def count(self, record: RequestRecord) -> None:
        """Count a request that is being answered, and remember it if it is refused."""
        now = time.monotonic()
        if record.clock_offset is not None:
            self.clock.add(record.clock_offset, refused=record.refused_for_its_time, now=now)
        self._count(record, now - record.started)
        if record.error is not None:
            self._remember(record, record.error)

    def record_block(self, keystore: str, change: BlockChange) -> None:
        """Record that a block took or lost effect in this worker. An empty ``keystore`` stands for all."""
        block = change.block
        since = None if block is None else datetime.fromtimestamp(block.since, UTC).isoformat(timespec="seconds")
        fields = {
            "keystore": keystore or None,
            "key_id": change.key_id or None,
            "since": since,
            "block_reason": block.reason if block else None,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        self.audit.write("unblocked" if block is None else "blocked", lambda: present)

    def beat(self) -> None:
        """Do what is due once a second: sums, checkpoint, clock, metrics."""
        self._write_sums()
        self.audit.checkpoint_if_due()
        self._check_clock()
        self.metrics.audit_dropped.labels().inc(self.audit.dropped - self._dropped)
        self._dropped = self.audit.dropped

    def close(self) -> None:
        """Write the remaining sums, metrics and lines, at the end of the worker."""
        self._write_sums()
        self.metrics.publish_now()
        self.audit.close()
        if self._tracer is not None:
            self._tracer.close()

    def _write_sums(self) -> None:
        for fields in self._strangers.take():
            self.audit.write("requests summed up", partial(dict, fields))

    def _check_clock(self) -> None:
        """Set the metric of the offset. Warn once when most signatures begin to fail only for their time."""
        now = time.monotonic()
        offset, gauge = self.clock.offset(now), self.metrics.clock_offset.labels()
        if offset is None:
            gauge.unset()
        else:
            gauge.set(offset)
        clock_error = self.clock.error(now)
        if clock_error is not None and not self._clock_is_wrong:
            _log.warning("clock is wrong", extra={"fields": {"ahead_seconds": round(clock_error)}})
        self._clock_is_wrong = clock_error is not None

    def _count(self, record: RequestRecord, seconds: float) -> None:
        operation = "" if record.operation is None else _XKS_OPERATIONS[record.operation]
        self.metrics.count_request(
            keystore=record.keystore,
            kms_operation=record.metadata.members.get("kmsOperation", ""),
            xks_operation=operation,
            exception=record.error,
            seconds=seconds,
            queue_seconds=record.stats.queue_seconds,
            hsm_seconds=record.stats.hsm_seconds,
            trace_id=record.trace_id,
        )
        if record.operation is Operation.DECRYPT and record.error is None:
            principal = record.metadata.members.get("awsPrincipalArn", "")
            self.metrics.count_decrypt(record.keystore, record.key_id, principal)

    def _remember(self, record: RequestRecord, error: str) -> None:
        operation = "" if record.operation is None else _XKS_OPERATIONS[record.operation]
        # The status page and commands show the message, which may quote text from a caller.
        message = escape((record.reason or record.error_message or "")[:256])
        key_id, peer = record.key_id[:128], record.peer or ""
        self.refusals.append(Refusal(time.time(), record.keystore, operation, key_id, error, message, peer))

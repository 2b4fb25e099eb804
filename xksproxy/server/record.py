"""What is told of each request: its line in the audit log, its place in the metrics, and recent refusals."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from xksproxy.keystore.blocks import BlockChange
from xksproxy.request_stats import RequestStats
from xksproxy.spec.errors import XksError
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.metrics import Metrics

_LOGGED_CHARACTERS: Final = 2048
_REMEMBERED_REFUSALS: Final = 200
_XKS_OPERATIONS: Final = {
    Operation.ENCRYPT: "Encrypt",
    Operation.DECRYPT: "Decrypt",
    Operation.GET_KEY_METADATA: "GetKeyMetadata",
    Operation.GET_HEALTH_STATUS: "GetHealthStatus",
}


class RequestRecord(msgspec.Struct):
    """The facts of one request, as far as it has come. Nothing secret is ever put in."""

    peer: str | None
    started: float
    """On the monotonic clock."""

    tls_client_name: str | None = None
    keystore: str = ""
    operation: Operation | None = None
    key_id: str = ""
    access_key_id: str | None = None
    region: str | None = None
    metadata: Mapping[str, str] = {}
    account: RequestStats = msgspec.field(default_factory=RequestStats)
    status: int = 200
    error: str | None = None
    error_message: str | None = None
    reason: str | None = None

    def refuse(self, error: XksError) -> None:
        """Note an error of the API."""
        self.error, self.error_message, self.reason = error.name, error.message, error.detail or None

    def line(self, seconds: float) -> dict[str, Any]:
        """The fields of its audit line; what is not known of it is left out."""
        account = self.account
        fields = {
            "peer": self.peer,
            "tls_client_name": self.tls_client_name,
            "keystore": self.keystore or None,
            "operation": None if self.operation is None else _XKS_OPERATIONS[self.operation],
            "key_id": self.key_id[:_LOGGED_CHARACTERS] or None,
            "key_version": account.key_version,
            "access_key_id": self.access_key_id,
            "region": self.region,
            "request_metadata": self.metadata or None,
            "hsms": account.hsms or None,
            "status": self.status,
            "error": self.error,
            "error_message": self.error_message,
            "reason": self.reason,
            "authorization": account.authorization,
            "ms": round(1000 * seconds, 2),
            "queue_ms": round(1000 * account.queue_seconds, 2) if account.hsms else None,
            "hsm_ms": round(1000 * account.hsm_seconds, 2) if account.hsms else None,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused lately. Times are seconds since 1970."""

    at: float
    keystore: str
    operation: str
    key_id: str
    error: str
    message: str


class Recorder:
    """Takes down the requests of one worker. Belongs to its event loop."""

    def __init__(self, audit: AuditLog, metrics: Metrics) -> None:
        self.metrics = metrics
        self.audit = audit
        self.refusals: deque[Refusal] = deque(maxlen=_REMEMBERED_REFUSALS)
        self.in_flight = 0
        """Authenticated requests in progress."""
        self._dropped = 0

    @property
    def problem(self) -> str:
        """Why requests are refused that could not be recorded; empty if they are not."""
        return "the audit log cannot be written" if self.audit.refuses else ""

    def record_request(self, record: RequestRecord) -> None:
        """Record a request that is being answered."""
        seconds = time.monotonic() - record.started
        self.audit.write("request", partial(record.line, seconds))
        self._count(record, seconds)
        if record.error is not None:
            self._remember(record, record.error)

    def record_block(self, keystore: str, change: BlockChange) -> None:
        """Record that a block took or lost effect in this worker."""
        block = change.block
        since = None if block is None else datetime.fromtimestamp(block.since, UTC).isoformat(timespec="seconds")
        fields = {
            "keystore": keystore,
            "key_id": change.key_id or None,
            "since": since,
            "block_reason": block.reason if block else None,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        self.audit.write("unblocked" if block is None else "blocked", lambda: present)

    def beat(self) -> None:
        """What is due once a second."""
        self.audit.checkpoint_if_due()
        self.metrics.flush()
        self.metrics.audit_dropped.inc(self.audit.dropped - self._dropped)
        self._dropped = self.audit.dropped

    def _count(self, record: RequestRecord, seconds: float) -> None:
        operation = "" if record.operation is None else _XKS_OPERATIONS[record.operation]
        self.metrics.count_request(
            keystore=record.keystore,
            kms_operation=record.metadata.get("kmsOperation", ""),
            xks_operation=operation,
            exception=record.error,
            seconds=seconds,
            queue_seconds=record.account.queue_seconds,
            hsm_seconds=record.account.hsm_seconds,
        )
        if record.operation is Operation.DECRYPT and record.error is None:
            principal = record.metadata.get("awsPrincipalArn", "")
            self.metrics.count_decrypt(record.keystore, record.key_id, principal)

    def _remember(self, record: RequestRecord, error: str) -> None:
        operation = "" if record.operation is None else _XKS_OPERATIONS[record.operation]
        message = record.reason or record.error_message or ""
        self.refusals.append(
            Refusal(time.time(), record.keystore, operation, record.key_id[:128], error, message[:256])
        )

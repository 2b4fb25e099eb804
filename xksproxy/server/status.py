"""The state of one machine as a document for operators: workers, HSMs, key stores, recent refusals."""

import platform
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from xksproxy import __version__
from xksproxy.hsm.instance.instance import State
from xksproxy.keystore.key_map import ExternalKey
from xksproxy.keystore.store import KeyStore
from xksproxy.server.conditions import Condition, Severity
from xksproxy.server.snapshot import Service, Snapshot
from xksproxy.server.worker_status import Refusal, WorkerStatus
from xksproxy.spec.errors import XksError
from xksproxy.state.blocks import WHOLE_STORE
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook

_MAXIMUM_KEYS: Final = 500
_RECENT_SECONDS: Final = 900.0
_MAXIMUM_REASONS: Final = 50


def status_document(
    snapshot: Snapshot, workers: Sequence[WorkerStatus], labels: Iterable[str], usage: UsageBook, fleet_size: int
) -> dict[str, Any]:
    """Everything that ``/status`` reports, ready for JSON. ``labels`` are the labels seen on the tokens.

    It reads files: call it on a thread. It contains no secret.
    """
    seen = sorted(labels)
    return {
        "version": __version__,
        "machine": platform.node(),
        "time": _time(time.time()),
        "fleet_size": fleet_size,
        "ready": any(worker.ready for worker in workers),
        "conditions": _conditions(workers),
        "clock_offset_seconds": next(
            (worker.clock_offset for worker in workers if worker.clock_offset is not None), None
        ),
        "configuration_loaded": _time(snapshot.loaded_at),
        "certificate": {"name": snapshot.certificate.name, "expires": _time(snapshot.certificate.expires)},
        "workers": [_worker(worker) for worker in workers],
        "hsms": _hsms(workers),
        "keystores": [_keystore(service, seen, usage, workers) for service in snapshot.services.values()],
        "refusals": _refusals([refusal for worker in workers for refusal in worker.refusals]),
    }


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    return {"pid": worker.pid, "started": _time(worker.started), "ready": worker.ready, "in_flight": worker.in_flight}


def _conditions(workers: Sequence[WorkerStatus]) -> list[dict[str, Any]]:
    """Each condition, with the number of workers that report it; the worst first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for worker in workers:
        for item in worker.conditions:
            found.setdefault(item.subject, condition_document(item))["workers"] += 1
    return sorted(found.values(), key=lambda document: document["severity"] != Severity.UNAVAILABLE)


def condition_document(condition: Condition) -> dict[str, Any]:
    """A condition as ``/status`` reports it. The caller counts the workers."""
    return {**msgspec.to_builtins(condition), "workers": 0}


def _keystore_state(name: str, workers: Sequence[WorkerStatus]) -> str:
    """OK, DEGRADED or UNAVAILABLE: the worst condition of the key store in any worker, without those of its HSMs."""
    severities = {item.severity for worker in workers for item in worker.conditions if item.keystore == name}
    return next((severity.value for severity in Severity if severity in severities), "OK")


def _hsms(workers: Sequence[WorkerStatus]) -> list[dict[str, Any]]:
    """Each HSM, with the worst state that a worker reports."""
    by_id: dict[str, list[Any]] = {}
    for worker in workers:
        for hsm in worker.hsms:
            by_id.setdefault(hsm.id, []).append(hsm)
    documents = []
    for hsm_id, seen in by_id.items():
        worst = next((hsm for hsm in seen if hsm.state != State.SERVING.value), seen[0])
        documents.append(
            {
                "id": hsm_id,
                "state": worst.state,
                "reason": worst.reason,
                "vendor": next((hsm.vendor for hsm in seen if hsm.vendor), ""),
                "model": next((hsm.model for hsm in seen if hsm.model), ""),
                "workers_served": sum(hsm.state == State.SERVING.value for hsm in seen),
                "workers": len(seen),
                "sessions": sum(hsm.sessions for hsm in seen),
                "calls": sum(hsm.calls for hsm in seen),
                "stuck_sessions": sum(hsm.stuck for hsm in seen),
            }
        )
    return documents


def _keystore(
    service: Service, labels: Sequence[str], usage: UsageBook, workers: Sequence[WorkerStatus]
) -> dict[str, Any]:
    store = service.store
    keys: dict[str, ExternalKey] = {key.id: key for key in store.keys.named_keys()}
    for label in labels:
        if holder := store.keys.key_of_label(label):
            keys.setdefault(holder.id, holder)
    return {
        "name": store.name,
        "uri_path_prefix": store.uri_path_prefix,
        "state": _keystore_state(store.name, workers),
        "blocked": _block(service, WHOLE_STORE),
        "hsms": [instance.id for instance in service.fleet.instances],
        "credentials": _credentials(store),
        "key_count": len(keys),
        "keys": [_key(service, key, labels, usage) for key in list(keys.values())[:_MAXIMUM_KEYS]],
    }


def _credentials(store: KeyStore) -> list[dict[str, str | None]]:
    used = store.credentials_used()
    return [
        {
            "access_key_id": access_key_id,
            "created": _time(created),
            "last_used": _time(used[access_key_id]) if access_key_id in used else None,
        }
        for access_key_id, created in sorted(store.credentials_created.items())
    ]


def _key(service: Service, key: ExternalKey, labels: Sequence[str], usage: UsageBook) -> dict[str, Any]:
    try:
        version = service.store.versions.primary(key)
        encryptions = usage.read(version.label).encryptions
    except (XksError, StateUnusable) as error:
        return {"id": key.id, "state": f"unusable: {error}"}
    on_token = version.label in labels
    block = _block(service, key.id)
    state = "DISABLED" if key.disabled else "ENABLED" if on_token else "not seen on a token"
    return {
        "id": key.id,
        "state": "BLOCKED" if block else state,
        "blocked": block,
        "label": version.label,
        "version": version.number,
        "encryptions": encryptions,
        "maximum_encryptions": key.maximum_encryptions,
    }


def _block(service: Service, key_id: str) -> dict[str, str] | None:
    try:
        block = service.store.blocks.find(key_id)
    except XksError:
        return {"since": "unknown", "reason": "the state directory cannot be read"}
    return {"since": _time(block.since), "reason": block.reason} if block else None


def _refusals(refusals: Sequence[Refusal]) -> list[dict[str, Any]]:
    """The refusals of the last 15 minutes, grouped by error and reason, the most frequent first."""
    since = time.time() - _RECENT_SECONDS
    recent = [refusal for refusal in refusals if refusal.at >= since]
    last: dict[tuple[str, ...], Refusal] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for refusal in recent:
        group = (refusal.error, refusal.message, refusal.keystore, refusal.operation)
        counts[group] += 1
        last[group] = max(last.get(group, refusal), refusal, key=lambda item: item.at)
    return [
        {
            "error": error,
            "reason": message,
            "keystore": keystore,
            "operation": operation,
            "count": count,
            "last": _time(last[error, message, keystore, operation].at),
            "last_peer": last[error, message, keystore, operation].peer,
        }
        for (error, message, keystore, operation), count in counts.most_common(_MAXIMUM_REASONS)
    ]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

"""The state of one machine as a document for operators: workers, HSMs, key stores, recent refusals."""

import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from xksproxy import __version__
from xksproxy.hsm.fleet.key_comparison import KeyProblems
from xksproxy.keystore.key_map import ExternalKey
from xksproxy.keystore.store import KeyStore
from xksproxy.server.accepted_files import AcceptedState
from xksproxy.server.conditions import Severity
from xksproxy.server.hsm_documents import hsm_documents
from xksproxy.server.snapshot import Service, Snapshot
from xksproxy.server.worker_status import Refusal, WorkerStatus
from xksproxy.spec.errors import XksError
from xksproxy.state.blocks import WHOLE_STORE
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook

_MAXIMUM_STORES: Final = 100
"""With more key stores, only those that need attention are listed."""

_MAXIMUM_KEYS: Final = 500
_MAXIMUM_KEYS_OF_ALL: Final = 2000
_MOST_COMPARISONS: Final = 20_000
"""With more pairs of a key store and a label on a token, the keys of key stores are left out."""

_ENABLED: Final = "ENABLED"
_RECENT_SECONDS: Final = 900.0
_MAXIMUM_REASONS: Final = 50


class NoSuchKeystore(Exception):
    """No key store has the name that was asked for."""


@dataclass(frozen=True, slots=True)
class StatusSource:
    """What the status is made of. It contains no secret."""

    snapshot: Snapshot
    workers: Sequence[WorkerStatus]
    labels: Iterable[str]
    """The labels seen on the tokens."""

    usage: UsageBook
    fleet_size: int
    accepted: AcceptedState | None = None
    """About the configuration that was accepted last; None if it is not known."""


def status_document(source: StatusSource, keystore: str | None = None) -> dict[str, Any]:
    """What ``/status`` reports, ready for JSON: all key stores with their keys if they are few, else a summary.

    With ``keystore``, that key store and its keys instead. It reads files: call it on a thread.

    Raises:
        NoSuchKeystore: there is no such key store.
    """
    snapshot, workers = source.snapshot, source.workers
    keystores = _keystores(source, keystore)
    return {
        "version": __version__,
        "machine": platform.node(),
        "time": _time(time.time()),
        "fleet_size": source.fleet_size,
        "ready": any(worker.ready for worker in workers),
        "conditions": _conditions(workers),
        "clock_offset_seconds": greatest_clock_offset(workers),
        "memory_not_locked": next((worker.memory_problem for worker in workers if worker.memory_problem), ""),
        "configuration_loaded": _time(snapshot.loaded_at),
        "configuration": None if source.accepted is None else _accepted(source.accepted),
        "certificate": {"name": snapshot.certificate.name, "expires": _time(snapshot.certificate.expires)},
        "workers": [_worker(worker) for worker in workers],
        "hsms": hsm_documents(workers),
        "keystore_count": len(snapshot.services),
        "keystores_left_out": 0 if keystore is not None else len(snapshot.services) - len(keystores),
        "keystores": keystores,
        "refusals": _refusals([refusal for worker in workers for refusal in worker.refusals]),
    }


def _keystores(source: StatusSource, name: str | None) -> list[dict[str, Any]]:
    """The key store with a name; without one all of them, or if they are many those that need attention."""
    services = list(source.snapshot.services.values())
    states = _keystore_states(source.workers)
    if name is not None:
        services = [service for service in services if service.store.name == name]
        if not services:
            raise NoSuchKeystore(name)
    elif len(services) > _MAXIMUM_STORES:
        services = [service for service in services if service.store.name in states][:_MAXIMUM_STORES]
        return [_summary(service, states) for service in services]
    labels = sorted(source.labels)
    if len(services) > 1 and len(services) * len(labels) > _MOST_COMPARISONS:
        return [_summary(service, states) for service in services]
    most_keys = min(_MAXIMUM_KEYS, _MAXIMUM_KEYS_OF_ALL // max(1, len(services)))
    return [_keystore(service, labels, source.usage, states, most_keys) for service in services]


def _accepted(state: AcceptedState) -> dict[str, Any]:
    since = None if state.differ_since is None else _time(state.differ_since)
    return {
        "number": state.number,
        "accepted": _time(state.accepted_at),
        "differing_files": list(state.differing),
        "differ_since": since,
    }


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "started": _time(worker.started),
        "ready": worker.ready,
        "in_flight": worker.in_flight,
        "configuration": worker.configuration,
    }


def greatest_clock_offset(workers: Iterable[WorkerStatus]) -> float | None:
    """The clock offset furthest from 0 that a worker has seen; None if none has seen a signature lately."""
    return max((worker.clock_offset for worker in workers if worker.clock_offset is not None), key=abs, default=None)


def _conditions(workers: Sequence[WorkerStatus]) -> list[dict[str, Any]]:
    """Each condition, with the number of workers that report it; the worst first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for worker in workers:
        for item in worker.conditions:
            found.setdefault(item.subject, {**msgspec.to_builtins(item), "workers": 0})["workers"] += 1
    return sorted(found.values(), key=lambda document: document["severity"] != Severity.UNAVAILABLE)


def _keystore_states(workers: Sequence[WorkerStatus]) -> dict[str, str]:
    """DEGRADED or UNAVAILABLE, the worst that workers report, by key store; under ``""`` that of all, if it has one."""
    found = [item for worker in workers for item in worker.conditions if item.keystore or item.concerns_every_store]
    return {
        item.keystore: item.severity.value
        for severity in reversed(Severity)
        for item in found
        if item.severity is severity
    }


def _state_of(service: Service, states: Mapping[str, str]) -> str:
    return states.get("") or states.get(service.store.name, "OK")


def _keystore(
    service: Service, labels: Sequence[str], usage: UsageBook, states: Mapping[str, str], most_keys: int
) -> dict[str, Any]:
    """A key store with its first ``most_keys`` keys."""
    keys: dict[str, ExternalKey] = {key.id: key for key in service.store.keys.named_keys()}
    for label in labels:
        if holder := service.store.keys.key_of_label(label):
            keys.setdefault(holder.id, holder)
    problems = service.fleet.key_problems()
    is_served = _state_of(service, states) != Severity.UNAVAILABLE
    return {
        **_summary(service, states),
        "credentials": _credentials(service.store),
        "key_count": len(keys),
        "keys": [_key(service, key, problems, usage, is_served=is_served) for key in list(keys.values())[:most_keys]],
    }


def _summary(service: Service, states: Mapping[str, str]) -> dict[str, Any]:
    """A key store without its credentials and keys."""
    return {
        "name": service.store.name,
        "uri_path_prefix": service.store.uri_path_prefix,
        "state": _state_of(service, states),
        "blocked": _block(service, WHOLE_STORE),
        "hsms": [instance.id for instance in service.fleet.instances],
        "credentials": [],
        "key_count": None,
        "keys": [],
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


def _key(
    service: Service, key: ExternalKey, problems: Sequence[KeyProblems], usage: UsageBook, *, is_served: bool
) -> dict[str, Any]:
    """A key. ``is_served`` says whether its key store is not UNAVAILABLE."""
    try:
        version = service.store.versions.primary(key)
        encryptions = usage.read(version.label).encryptions
    except (XksError, StateUnusable) as error:
        return {"id": key.id, "state": f"unusable: {error}"}
    block = _block(service, key.id)
    is_verified = service.store.versions.is_verified(key, version.number)
    state = "DISABLED" if key.disabled else _state_on_tokens(version.label, problems, is_verified=is_verified)
    if state == _ENABLED and not is_served:
        state = Severity.UNAVAILABLE.value
    return {
        "id": key.id,
        "state": "BLOCKED" if block else state,
        "blocked": block,
        "label": version.label,
        "version": version.number,
        "encryptions": encryptions,
        "maximum_encryptions": key.maximum_encryptions,
    }


def _state_on_tokens(label: str, problems: Sequence[KeyProblems], *, is_verified: bool) -> str:
    """ENABLED if an HSM of the key store has the key for requests; otherwise why none does.

    ``is_verified`` says whether a rotation found the key on each HSM, which a listing from before cannot show.
    """
    refusals = []
    for item in problems:
        if label in item.ambiguous:
            refusals.append(f"several keys have its name on {item.instance.id}")
        elif label in item.differing:
            refusals.append(f"the key on {item.instance.id} is not the one on record")
        elif label in item.restricted:
            refusals.append(f"the key on {item.instance.id} may no longer encrypt or decrypt")
        elif label in item.instance.keys.labels or (is_verified and label in item.not_listed_yet):
            return _ENABLED
    return f"refused: {'; '.join(refusals)}" if refusals else "not seen on a token"


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

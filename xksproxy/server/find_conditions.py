"""Finds the conditions of a worker."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance
from xksproxy.keystore.store import KeyStore
from xksproxy.server.conditions import Cause, Condition, Severity
from xksproxy.server.record import Recorder
from xksproxy.server.round_robin import RoundRobin
from xksproxy.server.runtime import RuntimeCheck
from xksproxy.server.services import Services
from xksproxy.server.snapshot import Service
from xksproxy.server.worker_count import WorkerCount
from xksproxy.state.blocks import WHOLE_STORE

NEARLY_USED: Final = 0.8
_MOST_NAMES: Final = 5
"""The maximum number of keys that one condition names."""

_MOST_CONDITIONS: Final = 200
_SLOW_FINGERPRINTS_SECONDS: Final = 5.0
"""The fingerprints of new keys are made within a second or two of the first start. A longer time is a condition."""
_LOOKED_AT_ANYWAY: Final = 20


class ConditionFinder:
    """Finds the conditions of this worker. It is for one thread.

    Of the key stores it looks at those whose state has changed, those that had a condition, and a few others in turn;
    at all of them after a change of HSMs, of keys on their tokens, or of the configuration.
    """

    def __init__(
        self,
        services: Services,
        recorder: Recorder,
        workers: WorkerCount,
        runtime: RuntimeCheck,
        elsewhere: Callable[[], frozenset[str]],
    ) -> None:
        """``elsewhere`` gives the HSMs that serve in other workers, while this one leaves requests to them."""
        self._elsewhere = elsewhere
        self._services = services
        self._recorder = recorder
        self._workers = workers
        self._runtime = runtime
        self._round = RoundRobin(_LOOKED_AT_ANYWAY)
        self._of_stores: dict[str, tuple[Condition, ...]] = {}
        """Those of each key store that has some, by its path prefix."""
        self._last: tuple[object, ...] = (None,)

    def find(self, reload_problem: str, status_problem: str) -> tuple[Condition, ...]:
        """Return the conditions, the worst first, at most 200. It reads no file.

        ``status_problem`` is why the status of this worker could not be written.
        """
        found = {*_machine(self._services, self._recorder, reload_problem), *_runtime(self._recorder, status_problem)}
        if problem := self._runtime.problem:
            found.add(_condition(Severity.UNAVAILABLE, Cause.RUNTIME, problem))
        if problem := self._workers.problem:
            found.add(_condition(Severity.DEGRADED, Cause.WORKERS, problem))
        elsewhere = self._elsewhere()
        for instance in self._services.instances:
            found.update(hsm_conditions(instance, elsewhere))
        self._look_at_stores(elsewhere)
        for conditions in self._of_stores.values():
            found.update(conditions)
        return tuple(sorted(found, key=_worst_first)[:_MOST_CONDITIONS])

    def _look_at_stores(self, elsewhere: frozenset[str]) -> None:
        nearly_used = self._services.state.usage.nearly_used(NEARLY_USED)
        services = self._services.snapshot.services
        changed = self._services.take_changed_stores()
        due = {*changed, *self._of_stores, *self._round.next(services)}
        if self._is_new(services, [*nearly_used], elsewhere):
            self._of_stores.clear()
            due = {*services}
        for prefix in due & services.keys():
            if conditions := tuple(_keystore(services[prefix], nearly_used, elsewhere)):
                self._of_stores[prefix] = conditions
            else:
                self._of_stores.pop(prefix, None)

    def _is_new(self, services: object, *others: object) -> bool:
        """Whether something has changed that may concern every key store."""
        instances = [(instance.listing.revision, instance.serving) for instance in self._services.instances]
        (services_before, *before), self._last = self._last, (services, instances, *others)
        return services is not services_before or before != [instances, *others]


def _worst_first(condition: Condition) -> tuple[bool, str, str, Condition]:
    """The sort key: the worst first; conditions of the machine and its HSMs before those of key stores."""
    return condition.severity is not Severity.UNAVAILABLE, condition.keystore, condition.hsm, condition


def _state(services: Services) -> Iterator[Condition]:
    if services.state.doubt:
        yield _condition(Severity.UNAVAILABLE, Cause.STATE_DOUBT, services.state.doubt)
    if services.state.problem not in ("", services.state.doubt):
        yield _condition(Severity.UNAVAILABLE, Cause.STATE, services.state.problem)
    if problem := services.state.first_use_problem:
        text = f"keys that were never used on this machine are refused: {problem}"
        yield _condition(Severity.DEGRADED, Cause.STATE, text)
    if problem := services.state.token_witness.problem:
        text = f"no token is a witness of the state directory, so a loss may stay unnoticed: {problem}"
        yield _condition(Severity.DEGRADED, Cause.STATE_WITNESS, text)


def _machine(services: Services, recorder: Recorder, reload_problem: str) -> Iterator[Condition]:
    yield from _state(services)
    if recorder.problem:
        yield _condition(Severity.UNAVAILABLE, Cause.AUDIT, recorder.problem)
    elif recorder.audit.problem:
        yield _condition(Severity.DEGRADED, Cause.AUDIT_LOST, f"requests go on unrecorded: {recorder.audit.problem}")
    if reload_problem:
        text = f"the last change of the configuration is not in use: {reload_problem}"
        yield _condition(Severity.DEGRADED, Cause.RELOAD, text)
    if services.refused_files:
        text = f"changed credentials or certificates are not in use: {'; '.join(services.refused_files)}"
        yield _condition(Severity.DEGRADED, Cause.FILES, text)
    ahead = recorder.clock.error(time.monotonic())
    if ahead is not None:
        direction = "ahead of" if ahead > 0 else "behind"
        offset = f"{abs(round(ahead))} s {direction}"
        text = f"the clock is {offset} that of the requests; most are refused; set the clock with NTP"
        yield _condition(Severity.UNAVAILABLE, Cause.CLOCK, text)
    certificate = services.snapshot.certificate
    if time.time() >= certificate.warn_from:
        end = datetime.fromtimestamp(certificate.expires, UTC)
        text = f"the server certificate {certificate.name} is valid until {end:%Y-%m-%d %H:%M} UTC; replace it"
        yield _condition(Severity.DEGRADED, Cause.CERTIFICATE, text)


def _runtime(recorder: Recorder, status_problem: str) -> Iterator[Condition]:
    """The files of the runtime directory that this worker cannot write. It serves without them."""
    problems = (("status", status_problem), ("metrics", recorder.metrics.problem))
    if lost := [f"its {name} ({problem})" for name, problem in problems if problem]:
        text = f"a worker cannot write {' and '.join(lost)} to the runtime directory, and serves without"
        yield _condition(Severity.DEGRADED, Cause.RUNTIME_FULL, text)


def hsm_conditions(instance: Instance, elsewhere: frozenset[str]) -> Iterator[Condition]:
    """The conditions of one HSM. ``elsewhere`` are the HSMs that serve in other workers."""
    if not instance.serving:
        text = instance.reason or instance.state.value
        if instance.id in elsewhere:
            text = f"a worker has no session and leaves requests to the others: {text}"
            yield Condition(Severity.DEGRADED, Cause.HSM_DEGRADED, "", instance.id, text)
            return
        yield Condition(Severity.UNAVAILABLE, Cause.HSM_DOWN, "", instance.id, text)
        return
    for text in instance.degraded:
        yield Condition(Severity.DEGRADED, Cause.HSM_DEGRADED, "", instance.id, text)


def _keystore(service: Service, nearly_used: Mapping[str, int], elsewhere: frozenset[str]) -> Iterator[Condition]:
    store, fleet = service.store, service.fleet
    if service.state.problem:
        yield Condition(Severity.UNAVAILABLE, Cause.STATE, store.name, "", service.state.problem)
    if text := why_not_served(fleet, elsewhere):
        yield Condition(Severity.UNAVAILABLE, Cause.NO_HSM, store.name, "", text)
    problems = fleet.key_problems()
    if unrecorded := sorted({label for item in problems for label in item.unrecorded}):
        text = "the token has later versions than this machine has a record of, so an older one encrypts"
        yield Condition(Severity.DEGRADED, Cause.KEY_UNRECORDED, store.name, "", f"{text}: {_named(unrecorded)}")
    for item in problems:
        for cause, labels, text in (
            (Cause.KEY_DIFFERS, item.differing, "keys that are not those on record are refused"),
            (Cause.KEY_MISSING, item.missing, "keys are not on the token"),
            (Cause.KEY_AMBIGUOUS, item.ambiguous, "several keys have one label, and are refused"),
            (Cause.KEY_RESTRICTED, item.restricted, "keys may no longer encrypt or decrypt on the token"),
        ):
            if labels:
                yield Condition(Severity.DEGRADED, cause, store.name, item.instance.id, f"{text}: {_named(labels)}")
    yield from _credentials_and_quota(service)
    blocks = store.blocks.in_force
    if whole := blocks.get(WHOLE_STORE):
        text = f"the key store is blocked: {whole.reason or 'no reason given'}"
        yield Condition(Severity.UNAVAILABLE, Cause.BLOCKED, store.name, "", text)
    elif blocks:
        yield Condition(Severity.DEGRADED, Cause.BLOCKED, store.name, "", f"keys are blocked: {_named(blocks)}")
    yield from limit_conditions(store, nearly_used)


def limit_conditions(store: KeyStore, nearly_used: Mapping[str, int]) -> Iterator[Condition]:
    """Keys near or at their maximum number of encryptions. ``nearly_used`` has the counts on record by label."""
    counts = [(key, count) for label, count in nearly_used.items() if (key := store.key_of_primary(label)) is not None]
    full = [key.id for key, count in counts if count >= key.maximum_encryptions]
    near = [key.id for key, count in counts if NEARLY_USED * key.maximum_encryptions <= count < key.maximum_encryptions]
    for keys, text in (
        (full, "keys have reached their maximum number of encryptions, and Encrypt is refused or soon will be"),
        (near, "keys have made 80 % of their maximum number of encryptions or more"),
    ):
        if keys:
            yield Condition(Severity.DEGRADED, Cause.KEY_LIMIT, store.name, "", f"{text}; rotate them: {_named(keys)}")


def _credentials_and_quota(service: Service) -> Iterator[Condition]:
    store, quota = service.store, service.quota
    if store.refused_credentials:
        text = f"retired credentials have a file again, and are refused: {_named(store.refused_credentials)}"
        yield Condition(Severity.DEGRADED, Cause.FILES, store.name, "", text)
    if quota is not None and quota.problem:
        text = f"each worker counts the quota for itself: {quota.problem}"
        yield Condition(Severity.DEGRADED, Cause.RUNTIME_FULL, store.name, "", text)


def why_not_served(fleet: Fleet, elsewhere: frozenset[str]) -> str:
    """Why no HSM serves a key store; empty if one does, or will as soon as the fingerprints of its keys are made."""
    if not any(instance.serving or instance.id in elsewhere for instance in fleet.instances):
        return "no HSM of it serves"
    if (seconds := fleet.fingerprinting_seconds) >= _SLOW_FINGERPRINTS_SECONDS:
        return f"the fingerprints of its keys have been made for {seconds:.0f} s"
    return ""


def _condition(severity: Severity, cause: Cause, text: str) -> Condition:
    return Condition(severity, cause, "", "", text)


def _named(names: Collection[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(islice(names, _MOST_NAMES)) + (f" and {more} more" if more > 0 else "")

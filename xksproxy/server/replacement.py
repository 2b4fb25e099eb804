"""Whether a worker of a changed configuration can replace a worker of the previous configuration."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from xksproxy.hsm.instance.instance import State
from xksproxy.server.conditions import Cause
from xksproxy.server.worker_status import WorkerStatus

SUCCESSOR_SECONDS: Final = 15.0
"""Seconds within which a successor must serve what its predecessor serves. It first waits up to 3 s for its HSMs."""


class Verdict(Enum):
    """The assessment of a successor."""

    SERVES = "serves"
    STARTING = "starting"
    FAILS = "fails"


def served(workers: Iterable[WorkerStatus]) -> frozenset[str]:
    """The ids of the HSMs that any of these workers has in service."""
    return frozenset(hsm.id for worker in workers for hsm in worker.hsms if hsm.state == State.SERVING.value)


def without_hsm(workers: Iterable[WorkerStatus]) -> frozenset[str]:
    """The names of the key stores for which any of these workers has no HSM."""
    return frozenset(item.keystore for worker in workers for item in worker.conditions if item.cause is Cause.NO_HSM)


def assess(
    worker: WorkerStatus | None, needed: frozenset[str], stores: frozenset[str], *, beats: bool, seconds: float
) -> tuple[Verdict, Sequence[str]]:
    """Assess a successor; the second value lists what it lacks.

    ``needed`` are the HSMs that its predecessors have in service and that its configuration still has, ``stores`` the
    key stores that they serve: an HSM may have another id now. ``beats`` says whether it accepts connections,
    ``seconds`` how long ago it was started.
    """
    found = {} if worker is None else {hsm.id: hsm for hsm in worker.hsms}
    missing = sorted(needed - served(() if worker is None else (worker,)))
    if worker is not None and stores & without_hsm((worker,)):
        missing = sorted({*missing, *found} - served((worker,)))
    if beats and not missing and (worker is not None or not stores):
        return Verdict.SERVES, ()
    if seconds < SUCCESSOR_SECONDS:
        return Verdict.STARTING, ()
    if not beats:
        return Verdict.FAILS, ["its workers do not start to serve; the log says why"]
    if not missing:
        return Verdict.FAILS, ["its workers report no status; the log says why"]
    return Verdict.FAILS, [
        f"HSM {hsm_id} does not serve: {found[hsm_id].reason or found[hsm_id].state}"
        if hsm_id in found
        else f"HSM {hsm_id} does not serve: its state is unknown"
        for hsm_id in missing
    ]

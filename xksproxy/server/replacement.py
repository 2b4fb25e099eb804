"""Whether a worker of a changed configuration can take the place of one of the configuration before."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from xksproxy.hsm.instance import State
from xksproxy.server.views import WorkerView

PATIENCE_SECONDS: Final = 15.0
"""So long a successor may take to serve what its predecessor serves; it looks at an HSM for 3 s before it listens."""


class Verdict(Enum):
    """What is known of a successor."""

    SERVES = "serves"
    STARTING = "starting"
    FAILS = "fails"


def served(views: Iterable[WorkerView]) -> frozenset[str]:
    """The ids of the HSMs that any of these workers has in service."""
    return frozenset(hsm.id for view in views for hsm in view.hsms if hsm.state == State.SERVING.value)


def judge(
    view: WorkerView | None, needed: frozenset[str], *, beats: bool, seconds: float
) -> tuple[Verdict, Sequence[str]]:
    """The verdict on a successor, and what it lacks.

    ``needed`` are the HSMs that its predecessors have in service and that its configuration still has; ``beats`` says
    whether it accepts connections, ``seconds`` how long ago it was started.
    """
    found = {} if view is None else {hsm.id: hsm for hsm in view.hsms}
    missing = sorted(needed - served(() if view is None else (view,)))
    if beats and not missing:
        return Verdict.SERVES, ()
    if seconds < PATIENCE_SECONDS:
        return Verdict.STARTING, ()
    if not beats:
        return Verdict.FAILS, ["its workers do not start to serve; the log says why"]
    return Verdict.FAILS, [
        f"HSM {hsm_id} does not serve: {found[hsm_id].reason or found[hsm_id].state}"
        if hsm_id in found
        else f"HSM {hsm_id} does not serve: its state is unknown"
        for hsm_id in missing
    ]

"""The HSMs of one machine, for operators."""

from collections.abc import Sequence
from typing import Any

from xksproxy.hsm.instance.instance import State
from xksproxy.server.worker_status import WorkerStatus


def hsm_documents(workers: Sequence[WorkerStatus]) -> list[dict[str, Any]]:
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

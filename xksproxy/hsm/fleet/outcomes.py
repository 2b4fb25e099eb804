"""The choice between several outcomes of one request."""

import asyncio
from typing import Final, TypeVar

from xksproxy.hsm.errors import (
    DeadlinePassed,
    HsmBusy,
    HsmError,
    KeyAmbiguous,
    KeyDiffers,
    KeyMissing,
    KeyRefusesUse,
    SessionLost,
    TokenUnavailable,
)

Result = TypeVar("Result")

_SEVERITY: Final = (
    *(KeyMissing, KeyAmbiguous, KeyRefusesUse),
    *(HsmBusy, KeyDiffers, DeadlinePassed, SessionLost, TokenUnavailable),
)


def more_severe(one: HsmError | None, other: HsmError) -> HsmError:
    """Return the failure that comes later in ``_SEVERITY``."""
    if one is None:
        return other
    rank = [next((n for n, kind in enumerate(_SEVERITY) if isinstance(error, kind)), 0) for error in (one, other)]
    return one if rank[0] >= rank[1] else other


async def first_answer(*tasks: asyncio.Task[Result]) -> Result:
    """Return the first success, or raise the failure of the first task if all fail. The other tasks are cancelled."""
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result()
        return tasks[0].result()
    finally:
        for task in pending:
            task.cancel()

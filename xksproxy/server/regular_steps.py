"""What a worker does regularly and nothing else waits for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from xksproxy.exhaustion import exhaustion

_log: Final = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 1.0


async def regularly(step: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Run a step again and again, whatever happens, with a pause of so many seconds after each."""
    while True:
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - the loop must go on, whatever it is
            if reason := exhaustion(error):
                _log.error("a regular task cannot run", extra={"fields": {"reason": reason}})
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                _log.exception("unexpected failure of a regular task")
        await asyncio.sleep(seconds)


async def once_a_second(step: Callable[[], None]) -> None:
    """Run a step on a thread, again and again, whatever happens."""
    await regularly(partial(asyncio.to_thread, step), _PAUSE_SECONDS)

"""What a worker does regularly and nothing else waits for."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

_log: Final = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 1.0


async def once_a_second(step: Callable[[], None]) -> None:
    """Run a step on a thread, again and again, whatever happens."""
    while True:
        try:
            await asyncio.to_thread(step)
        except Exception:  # noqa: BLE001 - the loop must go on, whatever it is
            _log.exception("unexpected failure of a regular task")
        await asyncio.sleep(_PAUSE_SECONDS)

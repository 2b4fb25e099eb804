"""The background task of one HSM: it checks the HSM while it serves, and probes it while it does not."""

import asyncio
import logging
import random
from typing import Final, Protocol

_log: Final = logging.getLogger(__name__)

RECHECK_SECONDS: Final = 1.0
_FIRST_BACKOFF_SECONDS: Final = 0.1
_MAXIMUM_BACKOFF_SECONDS: Final = 5.0
_OPERATOR_BACKOFF_SECONDS: Final = 30.0


class Watched(Protocol):
    """What the watcher asks of an HSM."""

    id: str

    @property
    def serving_state(self) -> bool:
        """Whether it is in service, free sessions or not."""

    def check_interval(self) -> float:
        """Seconds until the next check."""

    def needs_operator(self) -> bool:
        """Whether the last probe failed for a reason that only an operator can remove."""

    async def check(self) -> None:
        """Test an HSM in service."""

    async def probe(self, failed_before: int) -> bool:
        """Try to bring an HSM into service; whether it is in service now."""


class Watcher:
    """Runs checks and probes, one at a time, with pauses. Belongs to the event loop."""

    def __init__(self, watched: Watched) -> None:
        self.pausing = False
        """Whether it waits for the next check or probe."""
        self._watched = watched
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self._task.cancel()

    def wake(self) -> None:
        """End the present pause."""
        self._wake.set()

    async def _run(self) -> None:
        failed_probes = 0
        while True:
            try:
                failed_probes = await self._step(failed_probes)
            except Exception:  # noqa: BLE001 - an HSM without its watcher would never return to service
                _log.exception("unexpected failure while watching an HSM", extra={"fields": {"hsm": self._watched.id}})
                failed_probes += 1
                await asyncio.sleep(RECHECK_SECONDS)

    async def _step(self, failed_probes: int) -> int:
        """One check or probe, and the pause that belongs to it; how many probes have failed in a row."""
        if self._watched.serving_state:
            await self._pause(self._watched.check_interval())
            if self._watched.serving_state:
                await self._watched.check()
            return 0
        if await self._watched.probe(failed_probes):
            await self._watched.check()
            return 0
        await self._pause(self._backoff(failed_probes + 1))
        return failed_probes + 1

    def _backoff(self, failed_probes: int) -> float:
        """Pauses that double up to 5 s, with jitter; 30 s where only an operator can help."""
        if self._watched.needs_operator():
            return _OPERATOR_BACKOFF_SECONDS
        longest = min(_MAXIMUM_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(failed_probes, 10))
        return float(longest * (0.5 + random.random() / 2))  # noqa: S311 - jitter

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        self.pausing = True
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self.pausing = False

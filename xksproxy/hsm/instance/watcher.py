"""The background task of one HSM: checks it while it serves, and waits for its return while it does not."""

import asyncio
import logging
from typing import Final, Protocol

_log: Final = logging.getLogger(__name__)

RECHECK_SECONDS: Final = 1.0


class Watched(Protocol):
    """The HSM that is watched."""

    id: str

    def in_service(self) -> bool:
        """Whether it is in service, even if it has no free session."""

    def check_interval(self) -> float:
        """Seconds until the next check."""

    async def check(self) -> None:
        """Test an HSM in service."""

    async def try_to_serve(self) -> None:
        """Bring an HSM into service if it is connected."""


class Watcher:
    """Runs checks, one after another, with pauses, which :meth:`wake` ends. Belongs to the event loop."""

    def __init__(self, watched: Watched) -> None:
        self.pausing = False
        """Whether it waits for the next check."""
        self._watched = watched
        self._wake = asyncio.Event()
        self._check_soon = False
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

    def check_soon(self) -> None:
        """End the present pause, and check if the HSM is in service."""
        self._check_soon = True
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
            except Exception:  # noqa: BLE001 - an HSM without its watcher would never return to service
                _log.exception("unexpected failure while watching an HSM", extra={"fields": {"hsm": self._watched.id}})
                await asyncio.sleep(RECHECK_SECONDS)

    async def _step(self) -> None:
        self._wake.clear()
        if not self._watched.in_service():
            await self._watched.try_to_serve()
            if not self._watched.in_service():
                await self._pause(RECHECK_SECONDS)
                return
        elif not await self._pause(self._watched.check_interval()) and not self._check_soon:
            return
        self._check_soon = False
        await self._watched.check()

    async def _pause(self, seconds: float) -> bool:
        """Pause, and return whether the pause ended without :meth:`wake`."""
        self.pausing = True
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return True
        else:
            return False
        finally:
            self.pausing = False

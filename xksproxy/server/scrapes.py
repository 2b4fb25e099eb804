"""Answers to Prometheus. Rendering runs beside the event loop, and once for scrapes that overlap."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from xksproxy.server.machine_metrics import machine_info
from xksproxy.server.services import Services
from xksproxy.telemetry.collectors import MachineCollector
from xksproxy.telemetry.metrics import Encoder, Metrics


class Scrapes:
    """Renders the metrics of this machine. Belongs to the event loop."""

    def __init__(
        self,
        services: Services,
        metrics: Metrics,
        most_series: int,
        give_back: Callable[[], object],
        threads: Executor,
    ) -> None:
        """``give_back`` gives freed memory back to the system; it is called on one of the ``threads``, which render."""
        self._services = services
        self._metrics = metrics
        self._most_series = most_series
        self._give_back = give_back
        self._turn = threading.Lock()
        """Held while one format is rendered."""
        self._threads = threads
        self._running: dict[Encoder, asyncio.Future[bytes]] = {}

    async def render(self, encode: Encoder) -> bytes:
        """The metrics in one format. Whoever asks while they are rendered gets the same."""
        running = self._running.get(encode)
        if running is None:
            running = self._running[encode] = asyncio.get_running_loop().run_in_executor(
                self._threads, self._render, encode
            )
            running.add_done_callback(lambda _: self._running.pop(encode))
        return await asyncio.shield(running)

    def _render(self, encode: Encoder) -> bytes:
        with self._turn, _collector_at_rest():
            self._metrics.publish_now()  # what was shown once must not be lost if this process dies
            machine = MachineCollector(machine_info(self._services))
            content = self._metrics.render(machine, encode, self._most_series)
            del machine
        self._give_back()
        return content


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Do not look for cycles among the objects of a rendering, which has none: it would hold up the event loop."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

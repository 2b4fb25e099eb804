"""The two kinds of load: an open loop with due times, and a closed loop where each request follows a response."""

import asyncio
import time
from array import array
from collections.abc import Callable
from random import Random
from typing import Final

from xksproxy_tools.load.dispatch import Dispatcher, Exchange
from xksproxy_tools.load.http_connection import Response
from xksproxy_tools.load.plan import MAXIMUM_REQUESTS
from xksproxy_tools.load.recording import Recording
from xksproxy_tools.load.requests import OK, EncryptRequest, RequestResult
from xksproxy_tools.load.signing import SignedPool
from xksproxy_tools.load.timer import Timer

SAMPLE: Final = 200
"""The number of Encrypts of a phase that are decrypted after it."""

_POLL_SECONDS: Final = 0.02


class Load:
    """Sends the requests of a pool, and records their results."""

    def __init__(self, dispatcher: Dispatcher, pool: SignedPool, start: float) -> None:
        self.recording = Recording(start)
        self.sample: list[tuple[EncryptRequest, bytes]] = []
        """A uniform random sample of Encrypts and their responses."""
        self.dispatcher = dispatcher
        self._pool = pool
        self._encrypted = 0
        self._random = Random(0)  # noqa: S311 - a sample
        self._on_end: Callable[[], None] = lambda: None

    async def run_open(self, due: "array[float]") -> None:
        """Send each request at its due time, in seconds after the start. Returns when all have ended."""
        loop = asyncio.get_running_loop()
        start, count, number = self.recording.start, len(due), 0

        def send_due() -> None:
            nonlocal number
            now = time.monotonic()
            while number < count and start + due[number] <= now:
                self._send(start + due[number], now)
                number += 1
            if number < count:
                timer.set(start + due[number])

        timer = Timer(loop, send_due)
        try:
            timer.set(start)
            await self._until(lambda: number == count)
        finally:
            timer.close()

    async def run_closed(self, at_once: int, seconds: float) -> None:
        """Keep ``at_once`` requests in progress until ``seconds`` after the start. Returns when all have ended."""
        end = self.recording.start + seconds

        def send_next() -> None:
            now = time.monotonic()
            if now < end and len(self.recording) < MAXIMUM_REQUESTS:
                self._send(now, now)

        self._on_end = send_next
        for _ in range(at_once):
            send_next()
        await self._until(lambda: time.monotonic() >= end)

    async def _until(self, all_sent: Callable[[], bool]) -> None:
        """Wait until all have been sent and have ended."""
        while self.dispatcher.outstanding or not all_sent():  # noqa: ASYNC110 - an event for each request costs more
            await asyncio.sleep(_POLL_SECONDS)

    def _send(self, scheduled: float, now: float) -> None:
        self.dispatcher.submit(Exchange(self._pool.take(), scheduled, now, self._end))

    def _end(self, exchange: Exchange, now: float, response: Response | None, reason: str) -> None:
        request = exchange.request
        self._on_end()
        if response is None:
            result = RequestResult(reason)
        else:
            result = request.check_response(response.status, response.body)
            if result is OK and isinstance(request, EncryptRequest):
                self._keep(request, response.body)
        self.recording.add(
            request.operation,
            result,
            scheduled=exchange.scheduled,
            dispatched=exchange.dispatched,
            sent=exchange.sent,
            ended=now,
        )

    def _keep(self, request: EncryptRequest, answer: bytes) -> None:
        """Reservoir sampling."""
        self._encrypted += 1
        if len(self.sample) < SAMPLE:
            self.sample.append((request, answer))
        elif (place := int(self._random.random() * self._encrypted)) < SAMPLE:
            self.sample[place] = (request, answer)

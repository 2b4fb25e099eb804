"""The calls of one HSM that wait or run, and the expected duration of the next request."""

import math
import time
from collections.abc import Iterator
from typing import Final

from xksproxy.hsm._native import CallQueue, Flow
from xksproxy.hsm.instance.latency import Latency
from xksproxy.hsm.instance.session_call import SessionCall
from xksproxy.hsm.instance.shares import Share, Shares, StoreCalls

_WEIGHT: Final = 1 / 8
_USABLE_PART: Final = 0.95
"""A request is queued only if its expected duration is at most this part of the remaining time."""

_SAFETY_FACTOR: Final = 1.1
"""Calls that have not begun are expected to take the present duration, multiplied by this factor."""

_SHORT_SECONDS: Final = 0.002
"""If calls take at most this time, the start times of the running calls are not examined."""


class OutstandingCalls:
    """Calls, the oldest first, and their durations in seconds. Belongs to the event loop.

    A request of several calls counts with all of them from the first one on, because they are made before other calls.
    """

    def __init__(self, queue: "CallQueue[SessionCall]") -> None:
        """``queue`` is the queue in which the calls wait."""
        self.latency = Latency()
        """The duration of a GCM call inside the module."""
        self._present_seconds = 0.0
        """:attr:`latency` in seconds, at the last finished call or tick."""
        self._answer_delay = 0.0
        """The seconds that a finished call waits for the event loop; a moving average."""
        self._shares = Shares(queue)
        self._calls: dict[SessionCall, StoreCalls] = {}
        self._calls_left = 0
        """The number of calls that all requests have still to make."""

    def add(self, call: SessionCall, calls: int, share: Share) -> Flow:
        """Add the first of ``calls`` calls of a request, and return the flow in which to queue it."""
        store = self._calls[call] = self._shares.of(share)
        store.add(call, calls)
        self._calls_left += calls
        return store.flow

    def remove(self, call: SessionCall) -> None:
        """Forget a call that was refused or given up. An unknown call is ignored."""
        store = self._calls.pop(call, None)
        if store is not None:
            self._calls_left -= store.remove(call)

    def finish(self, call: SessionCall) -> None:
        """Forget a finished call, and add its durations as samples."""
        self.remove(call)
        if call.finished_at is not None:
            delay = time.monotonic() - call.finished_at
            self._answer_delay += _WEIGHT * (delay - self._answer_delay)
        seconds = call.module_seconds
        if seconds is not None:
            self.latency.add(seconds)
            self._present_seconds = self.latency.seconds()

    def tick(self, seconds: float) -> None:
        """Call it every ``seconds`` seconds. Durations decay if no new samples confirm them."""
        self._present_seconds = self.latency.seconds()
        self._shares.update_rates(seconds)

    def __iter__(self) -> Iterator[SessionCall]:
        return iter(tuple(self._calls))

    @property
    def running_seconds(self) -> float:
        """The seconds since the oldest running call began; 0 if no call runs."""
        running = self._seconds_and_running(1)[1]
        return time.monotonic() - min(began for began, _ in running) if running else 0.0

    def call_seconds(self, sessions: int) -> float:
        """The duration of a call. It is above the average only if all sessions are busy with longer calls."""
        return self._seconds_and_running(sessions)[0]

    def expected_seconds(self, sessions: int, calls: int, share: Share) -> float:
        """The seconds from now to the answer of a request that is queued now, if no other requests come."""
        each, running = self._seconds_and_running(sessions)
        return self._waiting_seconds(sessions, each, running, share, 0.0) + self._needed_seconds(calls, each)

    def may_be_faster(self, sessions: int) -> bool:
        """Whether the duration of a call is an old one and a session is idle, so that a call is worth a try."""
        return self.latency.is_old and self._calls_left < sessions

    def reserve(self, sessions: int, calls: int, remaining: float, share: Share) -> float | None:
        """The seconds from the first call of a request to its answer; None if it cannot be answered in ``remaining``.

        While a session is idle, every request is accepted, because only a call can show that the HSM is faster again.
        """
        each, running = self._seconds_and_running(sessions)
        needed = self._needed_seconds(calls, each)
        within = max(0.0, _USABLE_PART * remaining - needed)
        waiting = self._waiting_seconds(sessions, each, running, share, within)
        return needed if waiting == 0 or waiting <= within else None

    def _seconds_and_running(self, sessions: int) -> tuple[float, list[tuple[float, int]]]:
        """The duration of a call, and the running calls if no session is idle."""
        if self._calls_left < sessions:
            return self._present_seconds, []
        running = self._shares.running()
        youngest = time.monotonic() - max(began for began, _ in running) if len(running) >= sessions else 0.0
        return max(self._present_seconds, youngest), running

    def _waiting_seconds(
        self, sessions: int, each: float, running: list[tuple[float, int]], share: Share, within: float
    ) -> float:
        """The seconds that a request queued now waits for a session. ``within``: see :meth:`Shares.calls_before`."""
        if self._calls_left < sessions:
            return 0.0
        before = self._shares.calls_before(share, within)
        begun = sum(calls for _, calls in running)
        if each <= _SHORT_SECONDS:
            return _SAFETY_FACTOR * max(0.0, before + begun - sessions + 1) * each / sessions
        # From the start time of each running call: calls that began together end together.
        now = time.monotonic()
        ends = sorted(max(0.0, began + calls * each - now) for began, calls in running)
        ends = [0.0] * (sessions - len(ends)) + ends
        waiting = len(self._calls) - len(running)
        per_request = (self._calls_left - begun) / waiting if waiting else 1.0
        rounds, place = divmod(math.ceil(before / per_request), sessions)
        return ends[place] + _SAFETY_FACTOR * rounds * each * per_request

    def _needed_seconds(self, calls: int, each: float) -> float:
        return calls * (each + self._answer_delay)

"""The calls of one HSM that wait or run, and how long the next one will take."""

import math
import time
from collections.abc import Iterator
from typing import Final

from xksproxy.hsm._native import CallQueue, Flow
from xksproxy.hsm.instance.latency import Latency
from xksproxy.hsm.instance.session_worker import SessionCall
from xksproxy.hsm.instance.shares import Share, Shares, StoreCalls

_WEIGHT: Final = 1 / 8
_USABLE: Final = 0.95
"""The part of the remaining time that a request may be expected to take when it is queued."""

_CAUTION: Final = 1.1
"""Calls that have not begun yet are expected to take longer by this factor than they do at present."""

_BRIEF_SECONDS: Final = 0.002
"""For calls that take no longer, it does not matter how far each of those that run has come."""


class OutstandingCalls:
    """Calls, the oldest first, and their times. Belongs to the event loop. Times are seconds.

    A request of several calls counts as many from its first one on, since they all have to be made before others.
    """

    def __init__(self, queue: "CallQueue[SessionCall]") -> None:
        """``queue`` is where they wait."""
        self.latency = Latency()
        """How long a GCM call takes inside the module."""
        self._present_seconds = 0.0
        """:attr:`latency`, as of the last call or tick."""
        self._answer_delay = 0.0
        """How long a finished call waits for the event loop; a moving average."""
        self._shares = Shares(queue)
        self._calls: dict[SessionCall, StoreCalls] = {}
        self._owed = 0
        """The number of calls left of all requests."""

    def add(self, call: SessionCall, calls: int, share: Share) -> Flow:
        """Note a call that is queued, the first of so many that its request has to make; the flow to queue it in."""
        store = self._calls[call] = self._shares.of(share)
        store.add(call, calls)
        self._owed += calls
        return store.flow

    def remove(self, call: SessionCall) -> None:
        """Forget a call that was refused or given up; one that is not known is no matter."""
        store = self._calls.pop(call, None)
        if store is not None:
            self._owed -= store.remove(call)

    def finish(self, call: SessionCall) -> None:
        """Forget a finished call, and take its times as samples."""
        self.remove(call)
        if call.finished_at is not None:
            delay = time.monotonic() - call.finished_at
            self._answer_delay += _WEIGHT * (delay - self._answer_delay)
        seconds = call.module_seconds
        if seconds is not None:
            self.latency.add(seconds)
            self._present_seconds = self.latency.seconds()

    def follow(self, seconds: float) -> None:
        """Call it every so many seconds. Times that are not confirmed by new samples are forgotten."""
        self._present_seconds = self.latency.seconds()
        self._shares.follow_rates(seconds)

    def __iter__(self) -> Iterator[SessionCall]:
        return iter(tuple(self._calls))

    @property
    def running_seconds(self) -> float:
        """For how long the oldest running call has been running; 0 if none is."""
        running = self._seconds_and_running(1)[1]
        return time.monotonic() - min(began for began, _ in running) if running else 0.0

    def call_seconds(self, sessions: int) -> float:
        """How long a call takes; longer than usual only if all sessions are busy with calls that take longer."""
        return self._seconds_and_running(sessions)[0]

    def expected_seconds(self, sessions: int, calls: int, share: Share) -> float:
        """How long a request that is queued now takes until its answer, if no others come."""
        each, running = self._seconds_and_running(sessions)
        return self._waiting_seconds(sessions, each, running, share, 0.0) + self._needed_seconds(calls, each)

    def reserve(self, sessions: int, calls: int, remaining: float, share: Share) -> float | None:
        """How long a request takes from when its first call begins, if it can be answered in the remaining time.

        That is assumed while a session is idle: only a call that is made shows that the HSM has become faster.
        """
        each, running = self._seconds_and_running(sessions)
        needed = self._needed_seconds(calls, each)
        within = max(0.0, _USABLE * remaining - needed)
        waiting = self._waiting_seconds(sessions, each, running, share, within)
        return needed if waiting == 0 or waiting <= within else None

    def _seconds_and_running(self, sessions: int) -> tuple[float, list[tuple[float, int]]]:
        """How long a call takes, and the running calls if no session is idle."""
        if self._owed < sessions:
            return self._present_seconds, []
        running = self._shares.running()
        youngest = time.monotonic() - max(began for began, _ in running) if len(running) >= sessions else 0.0
        return max(self._present_seconds, youngest), running

    def _waiting_seconds(
        self, sessions: int, each: float, running: list[tuple[float, int]], share: Share, within: float
    ) -> float:
        """How long a request that is queued now waits for a session; of those to come in ``within``, see Shares."""
        if self._owed < sessions:
            return 0.0
        before = self._shares.calls_before(share, within)
        begun = sum(calls for _, calls in running)
        if each <= _BRIEF_SECONDS:
            return _CAUTION * max(0.0, before + begun - sessions + 1) * each / sessions
        # From when each running call began: those that began together end together.
        now = time.monotonic()
        ends = sorted(max(0.0, began + calls * each - now) for began, calls in running)
        ends = [0.0] * (sessions - len(ends)) + ends
        waiting = len(self._calls) - len(running)
        per_request = (self._owed - begun) / waiting if waiting else 1.0
        rounds, place = divmod(math.ceil(before / per_request), sessions)
        return ends[place] + _CAUTION * rounds * each * per_request

    def _needed_seconds(self, calls: int, each: float) -> float:
        return calls * (each + self._answer_delay)

"""The calls of one HSM that wait or run, and how long the next one will take."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Final

from xksproxy.hsm.instance.latency import Latency
from xksproxy.hsm.instance.session_worker import SessionCall

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

    def __init__(self) -> None:
        self.latency = Latency()
        """How long a GCM call takes inside the module."""
        self._present_seconds = 0.0
        """:attr:`latency`, as of the last call or tick."""
        self._answer_delay = 0.0
        """How long a finished call waits for the event loop; a moving average."""
        self._calls: dict[SessionCall, int] = {}
        """With the number of calls left of their request."""
        self._owed = 0
        """The sum of those."""

    def add(self, call: SessionCall, calls: int) -> None:
        """Note a call that is queued, the first of so many that its request has to make."""
        self._calls[call] = calls
        self._owed += calls

    def remove(self, call: SessionCall) -> None:
        """Forget a call that was refused or given up; one that is not known is no matter."""
        self._owed -= self._calls.pop(call, 0)

    def finish(self, call: SessionCall) -> None:
        """Forget a finished call, and take its times as samples."""
        self.remove(call)
        if call.finished_at is not None:
            delay = time.monotonic() - call.finished_at
            self._answer_delay += _WEIGHT * (delay - self._answer_delay)
        seconds = call.module_seconds
        if seconds is not None:
            self.latency.add(seconds)
            self.refresh()

    def refresh(self) -> None:
        """Let times that are not confirmed by new samples be forgotten; call it from time to time."""
        self._present_seconds = self.latency.seconds()

    def __iter__(self) -> Iterator[SessionCall]:
        return iter(tuple(self._calls))

    @property
    def running_seconds(self) -> float:
        """For how long the oldest call has been running; 0 if none is."""
        oldest = next(iter(self._calls), None)
        if oldest is None or oldest.claimed_at is None or oldest.finished_at is not None:
            return 0.0
        return time.monotonic() - oldest.claimed_at

    def call_seconds(self, sessions: int) -> float:
        """How long a call takes; longer than usual only if all sessions are busy with calls that take longer."""
        if len(self._calls) < sessions:
            return self._present_seconds
        busy = [call.claimed_at for call in islice(self._calls, sessions) if call.finished_at is None]
        began = [claimed_at for claimed_at in busy if claimed_at is not None]
        youngest = time.monotonic() - max(began) if len(began) >= sessions else 0.0
        return max(self._present_seconds, youngest)

    def expected_seconds(self, sessions: int, calls: int) -> float:
        """How long a request that is queued now takes until its answer."""
        each = self.call_seconds(sessions)
        return self._waiting_seconds(sessions, each) + self._needed_seconds(calls, each)

    def reserve(self, sessions: int, calls: int, remaining: float) -> float | None:
        """How long a request takes from when its first call begins, if it can be answered in the remaining time.

        That is assumed while a session is idle: only a call that is made shows that the HSM has become faster.
        """
        each = self.call_seconds(sessions)
        waiting, needed = self._waiting_seconds(sessions, each), self._needed_seconds(calls, each)
        return needed if waiting == 0 or waiting + needed <= _USABLE * remaining else None

    def _waiting_seconds(self, sessions: int, each: float) -> float:
        """How long a request that is queued now waits for a session."""
        behind = self._owed - sessions + 1
        if behind <= 0:
            return 0.0
        if each <= _BRIEF_SECONDS:
            return _CAUTION * behind * each / sessions
        return self._until_free(sessions, each)

    def _until_free(self, sessions: int, each: float) -> float:
        """The same, from when each of the running calls began: those that began together end together."""
        now = time.monotonic()
        left, running = [], 0
        for call, calls in islice(self._calls.items(), 2 * sessions):
            if call.finished_at is None and call.claimed_at is not None:
                left.append(max(0.0, call.claimed_at + calls * each - now))
                running += calls
        ends = [0.0] * (sessions - len(left)) + sorted(left)
        waiting = len(self._calls) - len(left)
        rounds, place = divmod(waiting, sessions)
        return ends[place] + (_CAUTION * rounds * each * (self._owed - running) / waiting if rounds else 0.0)

    def _needed_seconds(self, calls: int, each: float) -> float:
        return calls * (each + self._answer_delay)

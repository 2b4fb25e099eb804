"""The calls of one HSM that wait or run, and how long the next one will take."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Final

from xksproxy.hsm.instance.latency import Latency
from xksproxy.hsm.instance.session_worker import SessionCall

_USABLE: Final = 0.8
"""The part of the remaining time that a request may be expected to take when it is queued."""


class OutstandingCalls:
    """Calls, the oldest first, and their times. Belongs to the event loop. Times are seconds.

    A request of several calls counts as many from its first one on, since they all have to be made before others.
    """

    def __init__(self) -> None:
        self.latency = Latency()
        """How long a GCM call takes inside the module."""
        self._answer_delay = Latency()
        """How long a finished call waits for the event loop."""
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
            self._answer_delay.add(time.monotonic() - call.finished_at)
        if call.module_seconds is not None:
            self.latency.add(call.module_seconds)

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
        busy = [call.claimed_at for call in islice(self._calls, sessions) if call.finished_at is None]
        began = [claimed_at for claimed_at in busy if claimed_at is not None]
        return self.latency.seconds(max(began) if len(began) >= sessions else None)

    def waiting_seconds(self, sessions: int) -> float:
        """How long a call that is queued now waits for a session; 0 while one is idle."""
        behind = self._owed - sessions + 1
        return behind * self.call_seconds(sessions) / sessions if behind > 0 else 0.0

    def needed_seconds(self, sessions: int, calls: int) -> float:
        """How long so many calls, one after another, take from when the first begins until the answer."""
        return calls * (self.call_seconds(sessions) + self._answer_delay.seconds())

    def fits(self, sessions: int, calls: int, remaining: float) -> bool:
        """Whether a request of so many calls that is queued now can be answered in the remaining time.

        It can while a session is idle: only a call that is made shows that the HSM has become faster.
        """
        waiting = self.waiting_seconds(sessions)
        return waiting == 0 or waiting + self.needed_seconds(sessions, calls) <= _USABLE * remaining

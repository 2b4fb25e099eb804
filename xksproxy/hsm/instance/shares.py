"""The parts of an HSM's time: one for each key store that uses it, by weight."""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from xksproxy.hsm._native import CallQueue, Flow
from xksproxy.hsm.instance.session_worker import SessionCall

_RATE_WEIGHT: Final = 1 / 4
_NO_RATE: Final = 0.01
"""Calls a second; below it, a flow is forgotten."""

_LOOK_SECONDS: Final = 20e-6
"""For each share; some twenty times of what it takes to look at it."""


class Share(NamedTuple):
    """Who asks for calls, and its weight among those who ask for more than the HSM can do."""

    keystore: str
    weight: float


OWN_SHARE: Final = Share("", 1)
"""The share of what the proxy does by itself: checks, listings, fingerprints."""


class StoreCalls:
    """The outstanding calls of one share, in the order in which they are made. Belongs to the event loop.

    A request of several calls counts as many from its first one on.
    """

    def __init__(self, weight: float) -> None:
        self.flow = Flow(weight)
        """Where they wait in the call queue."""
        self.weight = weight
        self.calls: dict[SessionCall, int] = {}
        """With the number of calls left of their request."""
        self.owed = 0
        """The sum of those."""
        self.begun = 0
        """Of those, the ones of calls that a worker has taken; as of :meth:`Shares.running`."""
        self.start = 0.0
        """When its next call starts, in virtual time, unless that is past; as of :meth:`Shares.running`."""
        self.rate = 0.0
        """Calls a second that are queued; a moving average."""
        self._queued = 0

    def add(self, call: SessionCall, calls: int) -> None:
        """Note a call that is queued."""
        self.calls[call] = calls
        self.owed += calls
        self._queued += calls

    def remove(self, call: SessionCall) -> int:
        """Forget a call; the number of calls left of its request."""
        calls = self.calls.pop(call)
        self.owed -= calls
        return calls

    def follow_rate(self, seconds: float) -> bool:
        """Take the calls of the last ``seconds`` into the rate. Returns whether there are or were any of late."""
        self.rate += _RATE_WEIGHT * (self._queued / seconds - self.rate)
        self._queued = 0
        return bool(self.calls) or self.rate > _NO_RATE


class Shares:
    """The shares that have outstanding calls, or had some of late."""

    def __init__(self, queue: "CallQueue[SessionCall]") -> None:
        """``queue`` is where the calls wait."""
        self._queue = queue
        self._stores: dict[Share, StoreCalls] = {}
        self._running: list[tuple[float, int]] = []
        self._look_at = 0.0

    def of(self, share: Share) -> StoreCalls:
        """The calls of a share. After a change of its weight, those that wait keep the old one."""
        store = self._stores.get(share)
        if store is None:
            store = self._stores[share] = StoreCalls(share.weight)
        return store

    def __iter__(self) -> Iterator[StoreCalls]:
        return iter(self._stores.values())

    def follow_rates(self, seconds: float) -> None:
        """Call it every so many seconds."""
        self._stores = {share: store for share, store in self._stores.items() if store.follow_rate(seconds)}

    def calls_before(self, share: Share, within: float) -> float:
        """How many calls are made before one that is queued now, if that takes ``within`` seconds; some may be running.

        Those of its own share, and those of others that start at an earlier virtual time. These are no more than now
        wait and will come.
        """
        own = self.of(share)
        before = float(max(0, own.owed - own.begun))
        if len(self._stores) == 1:
            return before
        now, returned = self._queue.turn()
        begins = self._queue.start_of(own.flow)
        if before == 0 and begins <= now:  # it returns: then it is made before those that did not; see native/flow.c
            return float(returned)
        begins = max(now, begins) + before / own.weight
        for other in self:
            if other is not own:
                coming = other.owed - other.begun + other.rate * within
                earlier = (begins - max(now, other.start)) * other.weight + 1
                before += max(0.0, min(coming, earlier))
        return before

    def running(self) -> list[tuple[float, int]]:
        """When each running call began, and the number of calls left of its request; as of a moment ago.

        Looking takes time for each share, so it is done for a twentieth of the time at most.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._running = [pair for store in self for pair in self._look(store)]
            self._look_at = now + _LOOK_SECONDS * len(self._stores)
        return self._running

    def _look(self, store: StoreCalls) -> Iterator[tuple[float, int]]:
        store.begun = 0
        if not store.calls:
            return
        store.start = self._queue.start_of(store.flow)
        for call, calls in store.calls.items():
            if (claimed_at := call.claimed_at) is None:
                return
            store.begun += calls
            if call.finished_at is None:
                yield claimed_at, calls

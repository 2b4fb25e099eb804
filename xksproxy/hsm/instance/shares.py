"""The shares of an HSM's time: one for each key store that uses it, by weight."""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from xksproxy.hsm._native import CallQueue, Flow
from xksproxy.hsm.instance.session_call import SessionCall

_RATE_WEIGHT: Final = 1 / 4
_NO_RATE: Final = 0.01
"""In calls a second. A share without calls is forgotten below this rate."""

_SCAN_SECONDS: Final = 20e-6
"""The pause after a scan, for each share: about twenty times the duration of the scan."""


class Share(NamedTuple):
    """A key store that makes calls, and its weight while key stores ask for more than the HSM can do."""

    keystore: str
    weight: float


OWN_SHARE: Final = Share("", 1)
"""The share of the proxy's background work: checks, listings, fingerprints."""


class StoreCalls:
    """The outstanding calls of one share, in the order in which they are made. Belongs to the event loop.

    A request of several calls counts with all of them from the first one on.
    """

    def __init__(self, weight: float) -> None:
        self.flow = Flow(weight)
        """The flow in which they wait in the call queue."""
        self.weight = weight
        self.calls: dict[SessionCall, int] = {}
        """Each with the number of calls that its request has still to make."""
        self.calls_left = 0
        """The sum of these numbers."""
        self.begun = 0
        """The part of the sum for calls that a worker has taken, at the last :meth:`Shares.running`."""
        self.start = 0.0
        """The virtual time at which its next call starts, at the last :meth:`Shares.running`; it may be past."""
        self.rate = 0.0
        """Queued calls a second; a moving average."""
        self._queued = 0

    def add(self, call: SessionCall, calls: int) -> None:
        """Add a queued call, the first of ``calls`` calls of its request."""
        self.calls[call] = calls
        self.calls_left += calls
        self._queued += calls

    def remove(self, call: SessionCall) -> int:
        """Forget a call, and return the number of calls that its request had still to make."""
        calls = self.calls.pop(call)
        self.calls_left -= calls
        return calls

    def update_rate(self, seconds: float) -> bool:
        """Update the rate with the calls of the last ``seconds``. Returns whether the share is in use."""
        self.rate += _RATE_WEIGHT * (self._queued / seconds - self.rate)
        self._queued = 0
        return bool(self.calls) or self.rate > _NO_RATE


class Shares:
    """The shares that have outstanding calls, or had some recently."""

    def __init__(self, queue: "CallQueue[SessionCall]") -> None:
        """``queue`` is the queue in which the calls wait."""
        self._queue = queue
        self._stores: dict[Share, StoreCalls] = {}
        self._running: list[tuple[float, int]] = []
        self._scan_at = 0.0

    def of(self, share: Share) -> StoreCalls:
        """The calls of a share. If its weight changes, the waiting calls keep the old weight."""
        store = self._stores.get(share)
        if store is None:
            store = self._stores[share] = StoreCalls(share.weight)
        return store

    def __iter__(self) -> Iterator[StoreCalls]:
        return iter(self._stores.values())

    def update_rates(self, seconds: float) -> None:
        """Update the rates. Call it every ``seconds`` seconds."""
        self._stores = {share: store for share, store in self._stores.items() if store.update_rate(seconds)}

    def calls_before(self, share: Share, within: float) -> float:
        """The number of waiting calls that are made before a call of ``share`` that is queued now.

        These are the calls of its own share, and the calls of other shares with an earlier virtual start time: at most
        those that wait now or are expected within the next ``within`` seconds.
        """
        own = self.of(share)
        before = float(max(0, own.calls_left - own.begun))
        if len(self._stores) == 1:
            return before
        now, returned = self._queue.turn()
        begins = self._queue.start_of(own.flow)
        if before == 0 and begins <= now:  # its flow was empty, so it precedes others that start now; see native/flow.c
            return float(returned)
        begins = max(now, begins) + before / own.weight
        for other in self:
            if other is not own:
                coming = other.calls_left - other.begun + other.rate * within
                earlier = (begins - max(now, other.start)) * other.weight + 1
                before += max(0.0, min(coming, earlier))
        return before

    def running(self) -> list[tuple[float, int]]:
        """The start time of each running call, and the number of calls that its request has still to make.

        A scan takes time for each share, so the result may be a moment old: scans take at most a twentieth of the time.
        """
        now = time.monotonic()
        if now >= self._scan_at:
            self._running = [pair for store in self for pair in self._scan(store)]
            self._scan_at = now + _SCAN_SECONDS * len(self._stores)
        return self._running

    def _scan(self, store: StoreCalls) -> Iterator[tuple[float, int]]:
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

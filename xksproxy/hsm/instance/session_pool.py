"""The session workers of one HSM, and the queue of calls that wait for them."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from xksproxy.deadline import Deadline
from xksproxy.hsm._native import CallQueue
from xksproxy.hsm.instance.gcm_requests import GcmOperation, Operation
from xksproxy.hsm.instance.session_opener import SessionOpener
from xksproxy.hsm.instance.session_worker import SessionCall, SessionWorker
from xksproxy.request_stats import RequestStats, current_request_stats
from xksproxy.state.usage import UsageBook

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


class SessionPool:
    """One worker for each session of an HSM. The methods are called on the event loop.

    A worker whose call does not return is replaced, until there are twice as many, including the stuck ones.
    """

    def __init__(
        self,
        hsm_id: str,
        sessions: int,
        opener: SessionOpener,
        usage: UsageBook,
        *,
        on_stuck: Callable[[], None],
        on_return: Callable[[], None],
    ) -> None:
        """``usage`` counts encryptions. The callbacks run when a worker is stuck, and when a stuck one returns."""
        self._hsm_id = hsm_id
        self._sessions = sessions
        self._opener = opener
        self._usage = usage
        self._on_stuck = on_stuck
        self._on_return = on_return
        self._queue: CallQueue[SessionCall] = CallQueue()
        self._waking = False
        self._free: dict[int, SessionWorker] = {}
        """The workers that take calls, by number."""
        self._stuck: set[SessionWorker] = set()
        self._started = 0
        self._key_numbers: dict[str, int] = {}
        """The numbers by which native sessions know keys, by label; only for keys that were once listed."""
        self.labels: frozenset[str] = frozenset()
        """The labels that the last listing found. Others get no number: clients can invent any number of them."""

    @property
    def free(self) -> int:
        """The number of workers that take calls, busy ones included."""
        return len(self._free)

    @property
    def stuck(self) -> int:
        """The number of workers whose call has not returned in time."""
        return len(self._stuck)

    @property
    def exhausted(self) -> bool:
        """Whether all workers are stuck and no further one may be started."""
        return not self._free and self.stuck >= self._maximum

    @property
    def _maximum(self) -> int:
        return 2 * self._sessions

    def start(self) -> None:
        """Start the threads."""
        asyncio.get_running_loop().add_reader(self._queue.fileno(), self._settle_finished)
        self._top_up()

    def stop(self) -> None:
        """Let the threads end after what is queued; do not wait for them."""
        self._queue.end(self.free)

    async def ended(self, seconds: float) -> None:
        """After :meth:`stop`, wait until the threads have ended, for at most ``seconds``."""
        deadline = Deadline.after(seconds)
        for worker in tuple(self._free.values()):
            await asyncio.to_thread(worker.join, deadline.remaining())
        if not any(worker.running for worker in self._free.values()):
            self._settle_finished()
            asyncio.get_running_loop().remove_reader(self._queue.fileno())

    async def submit(self, work: Operation[Result], deadline: Deadline) -> Result:
        """Run work on a session; if that session is lost, once more on a new one.

        Raises:
            HsmBusy: no worker became free before the deadline, or the HSM asks to slow down.
            DeadlinePassed: the HSM was too slow.
            HsmError: the work raised it.
        """
        submitted_at = time.monotonic()
        call = SessionCall(work, deadline, self._queue, self._replace)
        if isinstance(work, GcmOperation) and (number := self._key_number(work.label)) is not None:
            call.offer(work, number, self._usage)
        try:
            self._put(call)
            result: Result = await call.result()
        finally:
            if stats := current_request_stats.get():
                self._record_times(stats, call, submitted_at)
        return result

    def _put(self, call: SessionCall) -> None:
        """Queue a call. Workers are woken once for all calls of this turn of the loop, because waking is costly."""
        self._queue.put(call)
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._queue.wake()

    def _settle_finished(self) -> None:
        for call in self._queue.finished():
            call.settle()

    def _key_number(self, label: str) -> int | None:
        number = self._key_numbers.get(label)
        if number is None and label in self.labels:
            number = self._key_numbers[label] = len(self._key_numbers)
        return number

    def _record_times(self, stats: RequestStats, call: SessionCall, submitted_at: float) -> None:
        now = time.monotonic()
        claimed_at = now if call.claimed_at is None else call.claimed_at
        stats.queue_seconds += claimed_at - submitted_at
        stats.hsm_seconds += now - claimed_at
        stats.hsms.append(self._hsm_id)

    def _top_up(self) -> None:
        while self.free < self._sessions and self.free + self.stuck < self._maximum:
            number = self._started
            self._started += 1
            worker = SessionWorker(f"{self._hsm_id}-{number}", number, self._queue, self._opener, self._returned)
            self._free[number] = worker
            worker.start()

    def _replace(self, number: int) -> None:
        """Start another worker in the place of one whose call did not return."""
        self._stuck.add(self._free.pop(number))
        _log.error("HSM call does not return", extra={"fields": {"hsm": self._hsm_id, "stuck": self.stuck}})
        self._top_up()
        self._on_stuck()

    def _returned(self, worker: SessionWorker) -> None:
        self._stuck.discard(worker)
        self._top_up()
        self._on_return()

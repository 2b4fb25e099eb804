"""The session workers of one HSM, and the queue of calls that wait for them."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from xksproxy.deadline import Deadline
from xksproxy.hsm._native import CallQueue
from xksproxy.hsm.errors import (
    CiphertextWrong,
    GeneratorFailed,
    HsmBusy,
    HsmError,
    LoginBarred,
    LoginRefused,
    SessionLost,
    SettingsMismatch,
    TokenUnavailable,
)
from xksproxy.hsm.instance.connector import Connector
from xksproxy.hsm.instance.gcm_requests import GcmOperation, Operation
from xksproxy.hsm.instance.outstanding_calls import OutstandingCalls
from xksproxy.hsm.instance.repeated_warnings import RepeatedWarnings
from xksproxy.hsm.instance.session_call import SessionCall
from xksproxy.hsm.instance.session_worker import SessionWorker
from xksproxy.hsm.instance.shares import OWN_SHARE, Share
from xksproxy.hsm.pkcs11.generator_check import IvHistory
from xksproxy.request_stats import HsmCall, RequestStats, current_request_stats
from xksproxy.state.usage import UsageBook

_log: Final = logging.getLogger(__name__)
_SUPERVISE_SECONDS: Final = 0.1
_STARVED_SECONDS: Final = 2.0
"""Usually a lost session is opened again sooner, unless the HSM is slow or has no free session."""

_DEVICE_RETRIES: Final = 2
"""The number of times that a call is repeated after an error that may be transient."""

_NOT_TRANSIENT: Final = (CiphertextWrong, GeneratorFailed, LoginBarred, LoginRefused, SettingsMismatch)

Result = TypeVar("Result")


class SessionPool:
    """One session worker for each session of an HSM. The methods are called on the event loop.

    A worker whose call does not return is replaced, as long as there are fewer than twice as many workers as sessions,
    stuck ones included. A call counts as stuck by its time inside the module, not by the deadline of the request.
    """

    def __init__(
        self,
        hsm_id: str,
        sessions: int,
        connector: Connector,
        usage: UsageBook,
        *,
        on_stuck: Callable[[], None],
        on_return: Callable[[], None],
        on_starved: Callable[[], None],
        hsm_makes_ivs: bool,
    ) -> None:
        """``usage`` counts encryptions.

        ``on_stuck`` is called when a worker is stuck, ``on_return`` when one returns or gets a session, ``on_starved``
        while no worker has had a session for 2 s. ``hsm_makes_ivs``: whether to compare the IVs.
        """
        self._queue: CallQueue[SessionCall] = CallQueue()
        self.calls = OutstandingCalls(self._queue)
        """The calls that wait or run, without stuck ones."""
        self._hsm_id = hsm_id
        self._sessions = sessions
        self._connector = connector
        self._usage = usage
        self._warnings = RepeatedWarnings(_log, hsm_id)
        self._on_stuck = on_stuck
        self._on_return = on_return
        self._on_starved = on_starved
        self._hsm_makes_ivs = hsm_makes_ivs
        self._iv_history = IvHistory()
        self._waking = False
        self._refusal: HsmError | None = TokenUnavailable("not reached yet")
        self._supervisor: asyncio.TimerHandle | None = None
        self._free: dict[int, SessionWorker] = {}
        """The workers that are not stuck, by number. They take calls when they have a session."""
        self._counted_sessions = 1
        """:attr:`free` at the last tick or change, but at least 1. Counting for each call would cost too much."""
        self.has_session = False
        """Whether :attr:`free` was above 0 then."""
        self._had_session_at = time.monotonic()
        self._renewals: set[asyncio.Task[None]] = set()
        self._stuck: set[SessionWorker] = set()
        self._exhausted_since: float | None = None
        self._started = 0
        self._key_numbers: dict[str, int] = {}
        """The numbers of keys in native sessions, by label, for keys that a listing has found."""
        self.labels: frozenset[str] = frozenset()
        """The labels of the last listing. Other labels get no number, because clients can invent any number of them."""

    @property
    def free(self) -> int:
        """The number of workers that have a session that can make calls and are not stuck, including busy ones."""
        return sum(worker.has_session for worker in self._free.values())

    @property
    def available(self) -> bool:
        """Whether a worker takes calls, or will when it has a session again."""
        return bool(self._free)

    @property
    def stuck(self) -> int:
        """The number of workers whose call does not return."""
        return len(self._stuck)

    @property
    def exhausted_for(self) -> float:
        """The seconds since all workers are stuck and no more may be started; 0 if that is not the case."""
        return 0.0 if self._exhausted_since is None else time.monotonic() - self._exhausted_since

    @property
    def _maximum(self) -> int:
        return 2 * self._sessions

    def start(self) -> None:
        """Start the threads."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._queue.fileno(), self._settle_finished)
        self._supervisor = loop.call_later(_SUPERVISE_SECONDS, self._supervise)
        self._top_up()

    def stop(self) -> None:
        """Let the threads end after the queued calls, without waiting for them."""
        if self._supervisor is not None:
            self._supervisor.cancel()
        self._queue.end(len(self._free))

    async def ended(self, seconds: float) -> None:
        """After :meth:`stop`, wait at most ``seconds`` until the threads have ended."""
        deadline = Deadline.after(seconds)
        for worker in tuple(self._free.values()):
            await asyncio.to_thread(worker.join, deadline.remaining())
        if not any(worker.running for worker in self._free.values()):
            self._settle_finished()
            asyncio.get_running_loop().remove_reader(self._queue.fileno())

    def expected_seconds(self, share: Share, calls: int = 1) -> float:
        """The expected seconds of a request of ``calls`` calls, one after another, including the time in the queue."""
        return self.calls.expected_seconds(self._counted_sessions, calls, share)

    @property
    def may_be_faster(self) -> bool:
        """See :meth:`OutstandingCalls.may_be_faster`."""
        return self.calls.may_be_faster(self._counted_sessions)

    async def submit(self, work: Operation[Result], deadline: Deadline, share: Share = OWN_SHARE) -> Result:
        """Run ``work`` on a session. It is repeated after a lost session or a transient error of the device.

        Raises:
            HsmBusy: the call cannot be answered by the deadline, or the HSM asks for fewer calls.
            DeadlinePassed: the HSM was too slow.
            HsmError: ``work`` raised it.
        """
        lost, failed = self._sessions, _DEVICE_RETRIES
        while True:
            if self._refusal is not None:
                raise type(self._refusal)(str(self._refusal))
            try:
                return await self._submit_once(work, deadline, share)
            except SessionLost:
                lost -= 1
                if lost < 0 or deadline.passed():
                    raise
            except TokenUnavailable as error:
                failed -= 1
                if (
                    isinstance(error, _NOT_TRANSIENT)
                    or failed < 0
                    or deadline.remaining() <= self.calls.call_seconds(self._counted_sessions)
                ):
                    raise

    async def _submit_once(self, work: Operation[Result], deadline: Deadline, share: Share) -> Result:
        submitted_at = time.monotonic()
        calls = work.calls if isinstance(work, GcmOperation) else 1
        needed = self._require_time(deadline, calls, share)
        call = SessionCall(work, deadline, self._queue)
        if isinstance(work, GcmOperation) and (number := self._key_number(work.label)) is not None:
            call.offer(work, number, self._usage)
        try:
            self._put(call, calls, share)
            result: Result = await call.result(needed)
        finally:
            if call.claimed_at is None:
                self.calls.remove(call)
            if stats := current_request_stats.get():
                self._record_times(stats, call, submitted_at)
        return result

    def open(self) -> None:
        """Accept calls."""
        self._refusal = None

    def close(self, error: HsmError) -> None:
        """Refuse the calls that no worker has taken, and all new calls until :meth:`open`."""
        self._refusal = error
        for call in self.calls:
            if call.claimed_at is None and call.refuse(error):
                self.calls.remove(call)

    def _require_time(self, deadline: Deadline, calls: int, share: Share) -> float:
        """The expected seconds of ``calls`` calls after they begin. Raises HsmBusy if they would miss the deadline."""
        sessions, remaining = self._counted_sessions, deadline.remaining()
        needed = self.calls.reserve(sessions, calls, remaining, share)
        if needed is None:
            each = 1000 * self.calls.call_seconds(sessions)
            raise HsmBusy(
                f"the queue and {calls} calls of {each:.0f} ms exceed the {1000 * remaining:.0f} ms that are left"
            )
        return min(needed, remaining / 2)

    def _put(self, call: SessionCall, calls: int, share: Share) -> None:
        """Queue a call. Workers are woken once for all calls of one iteration of the loop, because waking is costly."""
        flow = self.calls.add(call, calls, share)
        self._queue.put(call, flow, calls)
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._queue.wake()

    def _settle_finished(self) -> None:
        for call in self._queue.finished():
            self.calls.finish(call)
            if self._hsm_makes_ivs:
                self._require_new_iv(call)
            call.settle()

    def _require_new_iv(self, call: SessionCall) -> None:
        """Let a call fail if the HSM has used its IV before."""
        encryption = call.settled_encryption()
        if encryption is not None:
            try:
                self._iv_history.require_new(*encryption)
            except GeneratorFailed as error:
                call.fail(error)

    def _supervise(self) -> None:
        """Give up the workers whose call has been inside the module for too long."""
        loop = asyncio.get_running_loop()
        self._supervisor = loop.call_later(_SUPERVISE_SECONDS, self._supervise)
        self._warnings.summarise()
        self.calls.tick(_SUPERVISE_SECONDS)
        self._count_sessions()
        self._renew_dead_sessions()
        if time.monotonic() - self._had_session_at > _STARVED_SECONDS:
            self._on_starved()
        earliest = time.monotonic() - self.calls.latency.stuck_after
        for call in self.calls:
            since = call.inside_since(self._connector.call_of)
            if since is not None and since < earliest:
                worker = self._queue.abandon(call)
                self.calls.remove(call)
                call.give_up()
                if worker is not None:
                    self._replace(worker)

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
        if stats.calls is not None:
            stats.calls.append(HsmCall(self._hsm_id, submitted_at, claimed_at, now))

    def _top_up(self) -> None:
        while len(self._free) < self._sessions and len(self._free) + self.stuck < self._maximum:
            number = self._started
            self._started += 1
            worker = SessionWorker(
                f"{self._hsm_id}-{number}",
                number,
                self._queue,
                self._connector,
                warnings=self._warnings,
                on_return=self._returned,
                on_session=self._session_opened,
            )
            self._free[number] = worker
            worker.start()
        exhausted = not self._free
        if not exhausted:
            self._exhausted_since = None
        elif self._exhausted_since is None:
            self._exhausted_since = time.monotonic()

    def _count_sessions(self) -> None:
        free = self.free
        self._counted_sessions, self.has_session = free or 1, free > 0
        if free:
            self._had_session_at = time.monotonic()

    def _renew_dead_sessions(self) -> None:
        """Give each worker with a dead session a call, so that it gets another session before a request needs one."""
        if not self._renewals:
            for _ in range(sum(worker.has_dead_session for worker in self._free.values())):
                renewal = asyncio.create_task(self._renew_session())
                self._renewals.add(renewal)
                renewal.add_done_callback(self._renewals.discard)

    async def _renew_session(self) -> None:
        with suppress(HsmError):
            await self._submit_once(lambda _: None, Deadline.after(_SUPERVISE_SECONDS), OWN_SHARE)

    def _session_opened(self) -> None:
        self._count_sessions()
        self._on_return()

    def _replace(self, number: int) -> None:
        """Replace a worker whose call does not return by a new one."""
        self._stuck.add(self._free.pop(number))
        _log.error("HSM call does not return", extra={"fields": {"hsm": self._hsm_id, "stuck": self.stuck}})
        self._top_up()
        self._on_stuck()

    def _returned(self, worker: SessionWorker) -> None:
        self._stuck.discard(worker)
        self._top_up()
        self._on_return()

"""One HSM as the event loop sees it: calls with a deadline, and whether it serves."""

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, TypeVar

from xksproxy.account import Account, current_account
from xksproxy.config.model import Hsm
from xksproxy.deadline import Deadline
from xksproxy.hsm._crossing import Queue
from xksproxy.hsm.errors import (
    DeadlinePassed,
    HsmBusy,
    HsmError,
    LoginBarred,
    LoginRefused,
    ModuleStuck,
    ProofFailed,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.lane import Job, Lane
from xksproxy.hsm.module import Modules, TokenInfo
from xksproxy.hsm.opener import SessionOpener
from xksproxy.hsm.proven import Witness, encrypt_proven
from xksproxy.hsm.session import HsmSession, Sealed
from xksproxy.hsm.work import Decryption, Encryption, Work

_log: Final = logging.getLogger(__name__)

FAILURES_UNTIL_DOWN: Final = 3
"""So many failures in a row take an instance out of service; a single one may be the session's alone."""

_PROBE_SECONDS: Final = 2.0
_RECHECK_SECONDS: Final = 1.0
_ENUMERATION_SECONDS: Final = 40.0
_ENUMERATION_PAUSES: Final = 30
_LISTING_SECONDS: Final = 2.0
_REINITIALIZE_AFTER_PROBES: Final = 2
_REINITIALIZE_WAIT_SECONDS: Final = 1.0
_FIRST_BACKOFF_SECONDS: Final = 0.1
_MAXIMUM_BACKOFF_SECONDS: Final = 5.0
_CAREFUL_BACKOFF_SECONDS: Final = 30.0

Result = TypeVar("Result")


class State(Enum):
    """Whether an instance gets calls."""

    CONNECTING = "not reached yet"
    SERVING = "serving"
    DOWN = "out of service"


class Instance:
    """The lanes of one HSM. Its methods are called on the event loop.

    It serves after a session proved the settings on the token. Three failures in a row, or all lanes stuck, take it out
    of service; a watcher then probes it, with growing pauses, until it returns.
    """

    def __init__(self, hsm: Hsm, modules: Modules) -> None:
        self.id = hsm.id
        self.state = State.CONNECTING
        self.reason = ""
        """Why it does not serve."""
        self.returns = 0
        """How often it has come into service, the first time included."""
        self._hsm = hsm
        self._opener = SessionOpener(hsm, modules)
        self._usage = modules.usage
        self._queue: Queue[Job] = Queue()
        self._waking = False
        self._lanes: dict[int, Lane] = {}
        """By number."""
        self._key_numbers: dict[str, int] = {}
        """By label the numbers under which desks know keys; for keys that were once listed."""
        self._stuck: set[Lane] = set()
        self._started_lanes = 0
        self._outstanding = 0
        self._failures = 0
        self._checked_at = -math.inf
        self._module_stuck = False
        self._enumerate_at = -math.inf
        self._careful = False
        """Whether the last failure is one that trying again soon does not mend: a refused PIN, a wrong setting."""
        self.labels: frozenset[str] = frozenset()
        """The labels of its keys, as of the last check."""
        self.ambiguous: frozenset[str] = frozenset()
        """Those that several of its keys carry."""
        self.check_values: dict[str, bytes | None] = {}
        """By label the check values of its keys, as of the last check."""
        self._tried = asyncio.Event()
        self._wake = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._listing: asyncio.Task[None] | None = None
        """The listing of keys that it began before it served; it may take long."""
        self.may_reinitialize: Callable[[Instance], bool] = lambda _: True
        """Asked before C_Finalize, which hits every HSM of the same module."""

    @property
    def info(self) -> TokenInfo | None:
        """What the token says of itself; None until a first session was opened."""
        return self._opener.info

    @property
    def module_path(self) -> str:
        """The shared object behind it."""
        return self._hsm.module

    @property
    def serving(self) -> bool:
        """Whether it should get calls."""
        return self.state is State.SERVING and bool(self._lanes)

    @property
    def load(self) -> int:
        """Calls that wait or run, stuck ones included."""
        return self._outstanding + len(self._stuck)

    @property
    def sessions(self) -> int:
        """Sessions that can take calls."""
        return len(self._lanes)

    @property
    def stuck_sessions(self) -> int:
        """Sessions whose call did not return in time."""
        return len(self._stuck)

    @property
    def troubled(self) -> bool:
        """Whether it serves with less than it should: stuck sessions, or a failure since the last success."""
        return bool(self._stuck) or self._failures > 0

    @property
    def hopeless(self) -> bool:
        """Whether only another process can bring it back: every lane is stuck, or a call in its module is for good."""
        return self._module_stuck or (not self._lanes and len(self._stuck) >= self._maximum_lanes)

    @property
    def _maximum_lanes(self) -> int:
        return 2 * self._hsm.sessions

    def seconds_since_check(self) -> float:
        """Age of the last check that went well; infinite before the first."""
        return time.monotonic() - self._checked_at

    def start(self) -> None:
        """Start threads and watcher. The HSM need not be reachable yet."""
        asyncio.get_running_loop().add_reader(self._queue.fileno(), self._settle_finished)
        self._top_up_lanes()
        self._watcher = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Let the threads end once they have done what is queued; none is waited for."""
        for task in (self._watcher, self._listing):
            if task is not None:
                task.cancel()
        self._queue.end(len(self._lanes))

    async def ended(self, seconds: float) -> None:
        """After :meth:`stop`, wait until its threads have ended, so that none logs in again; no longer than that."""
        deadline = Deadline.after(seconds)
        for lane in tuple(self._lanes.values()):
            await asyncio.to_thread(lane.join, deadline.remaining())
        if not any(lane.running for lane in self._lanes.values()):
            self._settle_finished()
            asyncio.get_running_loop().remove_reader(self._queue.fileno())

    async def tried(self) -> None:
        """Wait until it was reached for the first time, or could not be."""
        await self._tried.wait()

    async def call(self, work: Work[Result], deadline: Deadline) -> Result:
        """Run ``work`` on a session; if that turns out to be lost, once more on a fresh one.

        Raises:
            HsmBusy: no lane came free before the deadline, or the HSM asks to slow down.
            DeadlinePassed: the HSM was too slow.
            HsmError: what ``work`` raised.
        """
        return await self._judged(self._submit(work, deadline))

    async def encrypt_proven(
        self, encryption: Encryption, witness: Callable[[Sealed], Witness], deadline: Deadline
    ) -> tuple[Sealed, Witness]:
        """An encryption with its proof, as one call; see :func:`xksproxy.hsm.proven.encrypt_proven`."""
        return await self._judged(encrypt_proven(self._submit, encryption, witness, deadline))

    async def _judged(self, call: Awaitable[Result]) -> Result:
        """Await a call, and let its outcome tell how the HSM is."""
        self._outstanding += 1
        try:
            result = await call
        except (TokenUnavailable, SessionLost, DeadlinePassed) as error:
            self._count_failure(error)
            raise
        except HsmBusy:
            raise
        except HsmError:
            # An answer about a key or a ciphertext comes from an HSM that works.
            self._failures = 0
            raise
        finally:
            self._outstanding -= 1
        self._failures = 0
        return result

    async def _submit(self, work: Work[Result], deadline: Deadline) -> Result:
        made_at = time.monotonic()
        job = Job(work, deadline, self._queue, self._lane_stuck)
        if isinstance(work, Encryption | Decryption) and (number := self._key_number(work.label)) is not None:
            job.offer(work, number, self._usage)
        try:
            self._put(job)
            result: Result = await job.result()
        finally:
            if account := current_account.get():
                self._enter(account, job, made_at)
        return result

    def _put(self, job: Job) -> None:
        """Queue a job, and wake the lanes once for all that are queued in this turn of the loop: waking costs more."""
        self._queue.put(job)
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake_lanes)

    def _wake_lanes(self) -> None:
        self._waking = False
        self._queue.wake()

    def _key_number(self, label: str) -> int | None:
        """None for what is no key's label, as far as is known: a client can think of any number of those."""
        number = self._key_numbers.get(label)
        if number is None and label in self.labels:
            number = self._key_numbers[label] = len(self._key_numbers)
        return number

    def _settle_finished(self) -> None:
        for job in self._queue.finished():
            job.settle()

    def _enter(self, account: Account, job: Job, made_at: float) -> None:
        now = time.monotonic()
        claimed_at = now if job.claimed_at is None else job.claimed_at
        account.queue_seconds += claimed_at - made_at
        account.hsm_seconds += now - claimed_at
        account.hsms.append(self.id)

    def _top_up_lanes(self) -> None:
        """As many lanes as the configuration has sessions, and never more than twice that, stuck ones included."""
        while len(self._lanes) < self._hsm.sessions and len(self._lanes) + len(self._stuck) < self._maximum_lanes:
            number = self._started_lanes
            self._started_lanes += 1
            lane = Lane(f"{self.id}-{number}", number, self._queue, self._opener, self._lane_returned)
            self._lanes[number] = lane
            lane.start()

    def _lane_stuck(self, number: int) -> None:
        self._stuck.add(self._lanes.pop(number))
        _log.error("HSM call does not return", extra={"fields": {"hsm": self.id, "stuck": len(self._stuck)}})
        self._top_up_lanes()
        if not self._lanes:
            self._go_down("every session is stuck in a call that does not return")

    def _lane_returned(self, lane: Lane) -> None:
        self._stuck.discard(lane)
        self._top_up_lanes()
        self._wake.set()

    def _count_failure(self, error: HsmError) -> None:
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_DOWN or isinstance(error, LoginBarred | LoginRefused | ProofFailed):
            self._go_down(str(error))

    def _go_down(self, reason: str) -> None:
        self.reason = reason
        if self.state is State.SERVING:
            self.state = State.DOWN
            _log.error("HSM out of service", extra={"fields": {"hsm": self.id, "reason": reason}})
            self._wake.set()

    async def _watch(self) -> None:
        """Check it while it serves, probe it while it does not."""
        failed_probes = 0
        while True:
            try:
                failed_probes = await self._watch_once(failed_probes)
            except Exception:  # noqa: BLE001 - the loop must go on, whatever it is
                # Without its watcher, an instance would never return to service.
                _log.exception("unexpected failure while watching an HSM", extra={"fields": {"hsm": self.id}})
                failed_probes += 1
                await asyncio.sleep(_RECHECK_SECONDS)

    async def _watch_once(self, failed_probes: int) -> int:
        """One check or probe, and the pause after it; how many probes have failed in a row."""
        if self.state is State.SERVING:
            await self._pause(_RECHECK_SECONDS if self._failures else self._hsm.check_interval_s)
            if self.state is State.SERVING:
                await self._check()
            return 0
        if not await self._probe(failed_probes):
            self._tried.set()
            await self._pause(self._backoff(failed_probes + 1))
            return failed_probes + 1
        # A session that has to search for a key while requests wait would cost them their deadline.
        self._enumerate_at = -math.inf
        self._listing = asyncio.create_task(self._enumerate_keys())
        await asyncio.wait({self._listing}, timeout=_LISTING_SECONDS)
        self.state, self.reason, self._failures = State.SERVING, "", 0
        self.returns += 1
        self._tried.set()
        _log.info("HSM in service", extra={"fields": {"hsm": self.id}})
        await self._check()
        return 0

    async def _check(self) -> None:
        try:
            await self.call(HsmSession.self_test, Deadline.after(_PROBE_SECONDS))
        except HsmBusy:
            return
        except HsmError as error:
            _log.warning("HSM fails its check", extra={"fields": {"hsm": self.id, "reason": str(error)}})
        else:
            self._checked_at = time.monotonic()
            if self._listing is None or self._listing.done():
                await self._enumerate_keys()

    async def _probe(self, failed_before: int) -> bool:
        """Try to bring it into service; from the third time on by initialising the module again, if that may be."""
        if failed_before >= _REINITIALIZE_AFTER_PROBES and not self._careful and self.may_reinitialize(self):
            await self._reinitialize()
        try:
            await self._submit(HsmSession.prove, Deadline.after(_PROBE_SECONDS))
        except HsmError as error:
            if str(error) != self.reason or self.state is State.CONNECTING:
                _log.error("HSM unavailable", extra={"fields": {"hsm": self.id, "reason": str(error)}})
            self.reason, self.state = str(error), State.DOWN
            self._careful = isinstance(error, LoginBarred | LoginRefused | ProofFailed)
            return False
        self._checked_at = time.monotonic()
        self._careful = False
        return True

    async def _reinitialize(self) -> None:
        try:
            module = await asyncio.to_thread(self._opener.module)
            await asyncio.to_thread(module.reinitialize, _REINITIALIZE_WAIT_SECONDS)
        except ModuleStuck as error:
            self.reason, self._module_stuck = str(error), True
        except TokenUnavailable as error:
            self.reason = str(error)
        else:
            _log.warning("PKCS#11 module initialised again", extra={"fields": {"hsm": self.id}})

    async def _enumerate_keys(self) -> None:
        """Look at all keys at once: one enumeration, where a search for each would cost more with each key.

        It takes at most a thirtieth of the time, however long it lasts, and says nothing of the HSM's health.
        """
        started = time.monotonic()
        if started < self._enumerate_at:
            return
        try:
            keys = await self._submit(HsmSession.list_keys, Deadline.after(_ENUMERATION_SECONDS))
        except HsmError as error:
            _log.warning("keys not listed", extra={"fields": {"hsm": self.id, "reason": str(error)}})
            return
        finally:
            now = time.monotonic()
            self._enumerate_at = now + _ENUMERATION_PAUSES * (now - started)
        counts = Counter(key.label for key in keys)
        self.labels = frozenset(counts)
        self.ambiguous = frozenset(label for label, count in counts.items() if count > 1)
        self.check_values = {key.label: key.check_value for key in keys}

    def _backoff(self, failed_probes: int) -> float:
        """Pauses that double up to 5 s, with jitter; 30 s where only an operator can help."""
        if self._careful:
            return _CAREFUL_BACKOFF_SECONDS
        longest = min(_MAXIMUM_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(failed_probes, 10))
        return float(longest * (0.5 + random.random() / 2))  # noqa: S311 - jitter

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

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

from xksproxy.config.model import Hsm
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    DeadlinePassed,
    HsmBusy,
    HsmError,
    LoginBarred,
    LoginRefused,
    ModuleStuck,
    SessionLost,
    SettingsMismatch,
    TokenUnavailable,
)
from xksproxy.hsm.instance.gcm import Operation
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_opener import SessionOpener
from xksproxy.hsm.instance.session_pool import SessionPool
from xksproxy.hsm.pkcs11.module import Modules, TokenInfo

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
    """One HSM: its workers, and whether they get work. Its methods are called on the event loop.

    It serves after a session proved the settings on the token. Three failures in a row, or all workers stuck, take it out
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
        self._wake = asyncio.Event()
        self._pool = SessionPool(
            hsm.id,
            hsm.sessions,
            self._opener,
            modules.usage,
            on_stuck=self._worker_stuck,
            on_return=self._wake.set,
        )
        self._outstanding = 0
        self._failures = 0
        self._checked_at = -math.inf
        self._module_stuck = False
        self._enumerate_at = -math.inf
        self._careful = False
        """Whether the last failure is one that trying again soon does not mend: a refused PIN, a wrong setting."""
        self.ambiguous: frozenset[str] = frozenset()
        """Those that several of its keys carry."""
        self.check_values: dict[str, bytes | None] = {}
        """By label the check values of its keys, as of the last check."""
        self._tried = asyncio.Event()
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
    def labels(self) -> frozenset[str]:
        """The labels of its keys, as of the last check."""
        return self._pool.labels

    @property
    def module_path(self) -> str:
        """The shared object behind it."""
        return self._hsm.module

    @property
    def serving(self) -> bool:
        """Whether it should get calls."""
        return self.state is State.SERVING and self._pool.free > 0

    @property
    def load(self) -> int:
        """Calls that wait or run, stuck ones included."""
        return self._outstanding + self._pool.stuck

    @property
    def sessions(self) -> int:
        """Sessions that can take calls."""
        return self._pool.free

    @property
    def stuck_sessions(self) -> int:
        """Sessions whose call did not return in time."""
        return self._pool.stuck

    @property
    def troubled(self) -> bool:
        """Whether it serves with less than it should: stuck sessions, or a failure since the last success."""
        return self._pool.stuck > 0 or self._failures > 0

    @property
    def hopeless(self) -> bool:
        """Whether only another process can bring it back: every worker is stuck, or a call in its module is for good."""
        return self._module_stuck or self._pool.exhausted

    def seconds_since_check(self) -> float:
        """Age of the last check that went well; infinite before the first."""
        return time.monotonic() - self._checked_at

    def start(self) -> None:
        """Start threads and watcher. The HSM need not be reachable yet."""
        self._pool.start()
        self._watcher = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Let the threads end once they have done what is queued; none is waited for."""
        for task in (self._watcher, self._listing):
            if task is not None:
                task.cancel()
        self._pool.stop()

    async def ended(self, seconds: float) -> None:
        """After :meth:`stop`, wait until its threads have ended, so that none logs in again; no longer than that."""
        await self._pool.ended(seconds)

    async def tried(self) -> None:
        """Wait until it was reached for the first time, or could not be."""
        await self._tried.wait()

    async def call(self, work: Operation[Result], deadline: Deadline) -> Result:
        """Run ``work`` on a session; if that turns out to be lost, once more on a fresh one.

        Raises:
            HsmBusy: no worker came free before the deadline, or the HSM asks to slow down.
            DeadlinePassed: the HSM was too slow.
            HsmError: what ``work`` raised.
        """
        return await self._observed(self._pool.submit(work, deadline))

    async def _observed(self, call: Awaitable[Result]) -> Result:
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

    def _worker_stuck(self) -> None:
        if not self._pool.free:
            self._go_down("every session is stuck in a call that does not return")

    def _count_failure(self, error: HsmError) -> None:
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_DOWN or isinstance(error, LoginBarred | LoginRefused | SettingsMismatch):
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
            await self._pool.submit(HsmSession.test_settings, Deadline.after(_PROBE_SECONDS))
        except HsmError as error:
            if str(error) != self.reason or self.state is State.CONNECTING:
                _log.error("HSM unavailable", extra={"fields": {"hsm": self.id, "reason": str(error)}})
            self.reason, self.state = str(error), State.DOWN
            self._careful = isinstance(error, LoginBarred | LoginRefused | SettingsMismatch)
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
            keys = await self._pool.submit(HsmSession.list_keys, Deadline.after(_ENUMERATION_SECONDS))
        except HsmError as error:
            _log.warning("keys not listed", extra={"fields": {"hsm": self.id, "reason": str(error)}})
            return
        finally:
            now = time.monotonic()
            self._enumerate_at = now + _ENUMERATION_PAUSES * (now - started)
        counts = Counter(key.label for key in keys)
        self._pool.labels = frozenset(counts)
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

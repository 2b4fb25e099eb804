"""One HSM as the event loop sees it: calls with a deadline, and whether it serves."""

import asyncio
import logging
import math
import time
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
from xksproxy.hsm.instance.gcm_requests import Operation
from xksproxy.hsm.instance.key_listing import KeyListing
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_opener import SessionOpener
from xksproxy.hsm.instance.session_pool import SessionPool
from xksproxy.hsm.instance.watcher import RECHECK_SECONDS, Watcher
from xksproxy.hsm.pkcs11.module import Modules, TokenInfo

_log: Final = logging.getLogger(__name__)

FAILURES_UNTIL_DOWN: Final = 3
"""So many failures in a row take an instance out of service; a single one may be the session's alone."""

_PROBE_SECONDS: Final = 2.0
_LISTING_SECONDS: Final = 2.0
_REINITIALIZE_AFTER_PROBES: Final = 2
_REINITIALIZE_WAIT_SECONDS: Final = 1.0

_NEEDS_OPERATOR: Final = (LoginBarred, LoginRefused, SettingsMismatch)
"""Failures that trying again soon does not mend."""

Result = TypeVar("Result")


class State(Enum):
    """Whether an instance gets calls."""

    CONNECTING = "not reached yet"
    SERVING = "serving"
    DOWN = "out of service"


class Instance:
    """One HSM: its session workers, and whether it gets calls. Its methods are called on the event loop.

    It serves after a session has tested the settings on the token. Three failures in a row, or all workers stuck, take
    it out of service. Then the watcher probes it, with growing pauses, until it serves again.
    """

    def __init__(self, hsm: Hsm, modules: Modules) -> None:
        self.id = hsm.id
        self.state = State.CONNECTING
        self.reason = ""
        """Why it does not serve."""
        self.returns = 0
        """How often it has come into service, the first time included."""
        self.may_reinitialize: Callable[[Instance], bool] = lambda _: True
        """Asked before C_Finalize, which hits every HSM of the same module."""
        self._hsm = hsm
        self._opener = SessionOpener(hsm, modules)
        self._watcher = Watcher(self)
        self._pool = SessionPool(
            hsm.id,
            hsm.sessions,
            self._opener,
            modules.usage,
            on_stuck=self._worker_stuck,
            on_return=self._watcher.wake,
        )
        self._listing = KeyListing(hsm.id, self._pool)
        self._outstanding = 0
        self._failures = 0
        self._checked_at = -math.inf
        self._module_stuck = False
        self._needs_operator = False
        self._tried = asyncio.Event()

    @property
    def info(self) -> TokenInfo | None:
        """Vendor, model and serial number of the token; None until a first session was opened."""
        return self._opener.info

    @property
    def labels(self) -> frozenset[str]:
        """The labels of its keys, as of the last listing."""
        return self._pool.labels

    @property
    def ambiguous(self) -> frozenset[str]:
        """Labels that several of its keys carry, as of the last listing."""
        return self._listing.ambiguous

    @property
    def check_values(self) -> dict[str, bytes | None]:
        """The check values of its keys by label, as of the last listing."""
        return self._listing.check_values

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
        """Whether only another process can bring it back: every worker, or a call in its module, does not return."""
        return self._module_stuck or self._pool.exhausted

    def seconds_since_check(self) -> float:
        """Age of the last check that went well; infinite before the first."""
        return time.monotonic() - self._checked_at

    def start(self) -> None:
        """Start threads and watcher. The HSM need not be reachable yet."""
        self._pool.start()
        self._watcher.start()

    def stop(self) -> None:
        """Let the threads end after what is queued; do not wait for them."""
        self._watcher.stop()
        self._listing.stop()
        self._pool.stop()

    async def ended(self, seconds: float) -> None:
        """After :meth:`stop`, wait until its threads have ended, for at most ``seconds``: then none logs in again."""
        await self._pool.ended(seconds)

    async def tried(self) -> None:
        """Wait until the first attempt to reach it has succeeded or failed."""
        await self._tried.wait()

    async def call(self, work: Operation[Result], deadline: Deadline) -> Result:
        """Run ``work`` on a session; if that session is lost, once more on a new one.

        Raises:
            HsmBusy: no worker became free before the deadline, or the HSM asks to slow down.
            DeadlinePassed: the HSM was too slow.
            HsmError: what ``work`` raised.
        """
        return await self._observed(self._pool.submit(work, deadline))

    async def _observed(self, call: Awaitable[Result]) -> Result:
        """Await a call and count its outcome."""
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
        if self._failures >= FAILURES_UNTIL_DOWN or isinstance(error, _NEEDS_OPERATOR):
            self._go_down(str(error))

    def _go_down(self, reason: str) -> None:
        self.reason = reason
        if self.state is State.SERVING:
            self.state = State.DOWN
            _log.error("HSM out of service", extra={"fields": {"hsm": self.id, "reason": reason}})
            self._watcher.wake()

    @property
    def serving_state(self) -> bool:
        """Whether it is in service, free sessions or not."""
        return self.state is State.SERVING

    @property
    def quiet(self) -> bool:
        """Whether it serves and makes no calls of its own before its next check is due."""
        return self.serving and self._watcher.pausing and not self._listing.running_first

    def check_interval(self) -> float:
        """Seconds until the next check: soon if a call has failed."""
        return RECHECK_SECONDS if self._failures else self._hsm.check_interval_s

    def needs_operator(self) -> bool:
        """Whether the last probe failed for a reason that only an operator can remove."""
        return self._needs_operator

    async def check(self) -> None:
        """Test the HSM while it serves, and list its keys."""
        try:
            await self.call(HsmSession.self_test, Deadline.after(_PROBE_SECONDS))
        except HsmBusy:
            return
        except HsmError as error:
            _log.warning("HSM fails its check", extra={"fields": {"hsm": self.id, "reason": str(error)}})
        else:
            self._checked_at = time.monotonic()
            if not self._listing.running_first:
                await self._listing.refresh()

    async def probe(self, failed_before: int) -> bool:
        """Try to bring it into service. From the third time on, the module is initialised again before."""
        if failed_before >= _REINITIALIZE_AFTER_PROBES and not self._needs_operator and self.may_reinitialize(self):
            await self._reinitialize()
        try:
            await self._pool.submit(HsmSession.test_settings, Deadline.after(_PROBE_SECONDS))
        except HsmError as error:
            if str(error) != self.reason or self.state is State.CONNECTING:
                _log.error("HSM unavailable", extra={"fields": {"hsm": self.id, "reason": str(error)}})
            self.reason, self.state = str(error), State.DOWN
            self._needs_operator = isinstance(error, _NEEDS_OPERATOR)
            self._tried.set()
            return False
        self._checked_at = time.monotonic()
        self._needs_operator = False
        # If a session had to search for a key while requests wait, they would miss their deadline.
        await self._listing.begin(_LISTING_SECONDS)
        self.state, self.reason, self._failures = State.SERVING, "", 0
        self.returns += 1
        self._tried.set()
        _log.info("HSM in service", extra={"fields": {"hsm": self.id}})
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

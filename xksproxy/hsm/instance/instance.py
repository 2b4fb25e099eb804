"""One HSM as the event loop sees it: calls with a deadline, and whether it serves."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Final, TypeVar

from xksproxy.config.model import Hsm
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    DeadlinePassed,
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
from xksproxy.hsm.instance.degradation import degraded_reasons, slow_attempt, too_slow_to_verify
from xksproxy.hsm.instance.gcm_requests import Operation
from xksproxy.hsm.instance.key_listing import KeyListing, TokenKeys
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_pool import SessionPool
from xksproxy.hsm.instance.shares import OWN_SHARE, Share
from xksproxy.hsm.instance.watcher import RECHECK_SECONDS, Watcher
from xksproxy.hsm.pkcs11.connection import TokenInfo
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.presets import quirks_of

_log: Final = logging.getLogger(__name__)

FAILURES_UNTIL_DOWN: Final = 3
"""The number of failures in a row that take an instance out of service. Repeated calls count each time."""

_CHECK_SECONDS: Final = 20.0
_LISTING_SECONDS: Final = 2.0
_DEADLINE_SECONDS: Final = 0.2

_AT_ONCE: Final = (LoginBarred, LoginRefused, SettingsMismatch, GeneratorFailed)
"""The failures that take an instance out of service at the first time."""

Result = TypeVar("Result")


class State(Enum):
    """Whether an instance gets calls."""

    CONNECTING = "not reached yet"
    SERVING = "serving"
    DOWN = "out of service"


class Instance:
    """One HSM: its session workers, and whether it gets calls. Its methods are called on the event loop.

    It serves after its connector has tested the settings on the token. It goes out of service after several failures
    in a row, or if all sessions are stuck, until the connector's next test succeeds. A slow HSM stays in service.
    """

    def __init__(self, hsm: Hsm, modules: Modules, workers: int = 1) -> None:
        """``workers`` is the number of worker processes that open sessions on the HSM."""
        self.id = hsm.id
        self.state = State.CONNECTING
        self.returns = 0
        """How often it has come into service, including the first time."""
        self.deadline_seconds = _DEADLINE_SECONDS
        """The deadline of a request, to determine whether the HSM is fast enough."""
        self.may_reinitialize: Callable[[Instance], bool] = lambda _: True
        """Asked before C_Finalize, which ends the sessions of every HSM of the module. Called on any thread."""
        self.when_in_service: list[Callable[[], None]] = []
        """Called on the event loop whenever the instance comes into service."""
        self._hsm = hsm
        self._reason = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connector = Connector(hsm, modules, self._changed)
        self._connector.workers = workers
        self._connector.may_reinitialize = lambda: self.may_reinitialize(self)
        self._watcher = Watcher(self)
        self._pool = SessionPool(
            hsm.id,
            hsm.sessions,
            self._connector,
            modules.usage,
            on_stuck=self._worker_stuck,
            on_return=self._watcher.wake,
            on_starved=lambda: self._go_down("it has no session"),
            hsm_makes_ivs=quirks_of(hsm).iv != "caller",
        )
        self.listing = KeyListing(hsm.id, self._pool)
        """The last listing of its keys."""
        self._outstanding = 0
        self._failures = 0
        self._checked_at = -math.inf
        self._seen_passed_tests = 0
        self._seen_failure: HsmError | None = None
        self._too_slow = False
        self._tried = asyncio.Event()

    @property
    def info(self) -> TokenInfo | None:
        """Vendor, model and serial number of the token; None until it was found."""
        return self._connector.info

    @property
    def reason(self) -> str:
        """Why it does not serve, and the current attempt to connect."""
        slow = "" if self.state is State.SERVING else slow_attempt(self._connector)
        return "; ".join(filter(None, (self._reason, slow)))

    @property
    def degraded(self) -> tuple[str, ...]:
        """The reasons why it is DEGRADED. Empty if it is not."""
        reasons = degraded_reasons(self._hsm.sessions, self._pool, self._connector, failed=self._failures > 0)
        return tuple(filter(None, (*reasons, self._slowness)))

    @property
    def call_seconds(self) -> float:
        """The seconds that a GCM call takes inside the module at present; 0 if unknown."""
        return self._pool.calls.latency.seconds()

    @property
    def too_slow_to_verify(self) -> bool:
        """Whether two calls take longer than the deadline, so that no Encrypt with an integrity value can succeed."""
        return bool(self._slowness)

    @property
    def _slowness(self) -> str:
        # After a pause, the average is that of one call.
        usual = min(self.call_seconds, self._pool.calls.latency.usual)
        return too_slow_to_verify(usual, self.deadline_seconds)

    @property
    def keys(self) -> TokenKeys:
        """Its keys, from the last listing."""
        return self.listing.keys

    @property
    def module_path(self) -> str:
        """The shared object behind it."""
        return self._hsm.module

    @property
    def serving(self) -> bool:
        """Whether it gets calls: it is in service, and not all sessions are stuck."""
        return self.state is State.SERVING and self._pool.available

    def in_service(self) -> bool:
        """Whether it is in service, even if it has no free session."""
        return self.state is State.SERVING

    @property
    def load(self) -> int:
        """The number of calls that wait or run, including stuck ones."""
        return self._outstanding + self._pool.stuck

    @property
    def sessions(self) -> int:
        """The number of sessions that are not stuck."""
        return self._pool.free

    @property
    def stuck_sessions(self) -> int:
        """The number of sessions whose call does not return."""
        return self._pool.stuck

    @property
    def troubled(self) -> bool:
        """Whether calls should go to another instance if there is one.

        It has stuck sessions, no session, or a failure since its last success.
        """
        return self._pool.stuck > 0 or self._failures > 0 or not self._pool.has_session

    @property
    def uses_module(self) -> bool:
        """Whether it serves or connects at present, so that C_Finalize would end its sessions or its log-in."""
        return self.serving or self._connector.attempting

    @property
    def needs_new_process(self) -> bool:
        """Whether all sessions, or its own one, are stuck for ``connect_timeout_s``, so only a new process can help.

        The module cannot be initialised again while a call is inside.
        """
        seconds = max(self._pool.exhausted_for, self._connector.own_session_seconds)
        return seconds > self._hsm.connect_timeout_s

    @property
    def quiet(self) -> bool:
        """Whether it serves and makes no call before its next check, apart from requests."""
        return self.serving and self._watcher.pausing and not self.listing.running_first

    def expected_seconds(self, share: Share, calls: int = 1) -> float:
        """The expected seconds of a request of ``calls`` calls, one after another."""
        return self._pool.expected_seconds(share, calls)

    @property
    def may_be_faster(self) -> bool:
        """Whether a call is worth a try although the last ones were slow: it would be the first for a second."""
        return self._pool.may_be_faster

    def likely_seconds(self, share: Share) -> float:
        """The expected seconds of the next call, at least as long as the oldest running call has taken."""
        return max(self._pool.expected_seconds(share), self._pool.calls.running_seconds)

    def seconds_since_check(self) -> float:
        """The age of the last successful check; infinite before the first."""
        return time.monotonic() - self._checked_at

    def read_when_connected(self, read: Callable[[HsmSession], None]) -> None:
        """Let ``read`` use a session whenever the HSM is connected, before it serves. Call it before :meth:`start`."""
        self._connector.when_connected = read

    def on_own_session(self, work: Callable[[HsmSession], None]) -> None:
        """Run ``work`` on the calling thread in a session of its own, which does not change the health of the HSM.

        Raises:
            HsmError: there is no session, or what ``work`` raised.
        """
        self._connector.on_own_session(work)

    def start(self) -> None:
        """Start threads and watcher. The HSM may be unreachable."""
        self._loop = asyncio.get_running_loop()
        self._connector.start()
        self._pool.start()
        self._watcher.start()

    def stop(self) -> None:
        """Let the threads end after the queued calls, without waiting for them."""
        self._watcher.stop()
        self.listing.stop()
        self._connector.stop()
        self._pool.stop()

    def check_soon(self) -> None:
        """Test it and list its keys now, instead of at the next check. Call it on the event loop."""
        self._watcher.check_soon()

    async def ended(self, seconds: float) -> None:
        """After :meth:`stop`, wait at most ``seconds`` until the threads have ended. Then none logs in again."""
        deadline = Deadline.after(seconds)
        await self._pool.ended(deadline.remaining())
        await asyncio.to_thread(self._connector.join, deadline.remaining())

    async def tried(self) -> None:
        """Wait until the first attempt to reach it has succeeded or failed."""
        await self._tried.wait()

    async def call(self, work: Operation[Result], deadline: Deadline, share: Share = OWN_SHARE) -> Result:
        """Run ``work`` on a session, in its turn; see :meth:`SessionPool.submit`.

        Raises:
            HsmBusy: the call cannot be answered by the deadline, or the HSM asks for fewer calls.
            DeadlinePassed: the HSM was too slow.
            TokenUnavailable: the HSM is out of service.
            HsmError: what ``work`` raised.
        """
        return await self._observed(self._pool.submit(work, deadline, share))

    async def call_unobserved(self, work: Operation[Result], deadline: Deadline) -> Result:
        """The same as :meth:`call` for background work. Its outcome does not change the health of the HSM."""
        return await self._pool.submit(work, deadline)

    async def _observed(self, call: Awaitable[Result]) -> Result:
        """Await a call and count its outcome. A missed deadline does not count as a failure of the HSM."""
        self._outstanding += 1
        try:
            result = await call
        except (DeadlinePassed, HsmBusy):
            raise
        except (TokenUnavailable, SessionLost) as error:
            self._count_failure(error)
            raise
        except HsmError:
            # An HSM that reports an error about a key or a ciphertext works.
            self._failures = 0
            raise
        finally:
            self._outstanding -= 1
        self._failures = 0
        return result

    def _changed(self) -> None:
        """The connector's callback, on its thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._connector_changed)

    def _connector_changed(self) -> None:
        failure = self._connector.failure
        if failure is not None and self.state is State.SERVING and not self._pool.free:
            self._go_down(str(failure))
        self._watcher.wake()

    def _worker_stuck(self) -> None:
        if not self._pool.available:
            self._go_down("every session is stuck in a call that does not return")

    def _count_failure(self, error: HsmError) -> None:
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_DOWN or isinstance(error, _AT_ONCE):
            self._go_down(str(error))

    def _go_down(self, reason: str) -> None:
        if self.state is not State.SERVING:
            return
        self.state, self._reason = State.DOWN, reason
        self._seen_passed_tests = self._connector.passed_tests
        _log.error("HSM out of service", extra={"fields": {"hsm": self.id, "reason": reason}})
        self._connector.request_test()
        self._pool.close(TokenUnavailable(reason))
        self._watcher.wake()

    def check_interval(self) -> float:
        """The seconds until the next check: fewer if a call has failed."""
        return RECHECK_SECONDS if self._failures else self._hsm.check_interval_s

    async def check(self) -> None:
        """Test the HSM while it serves, and list its keys."""
        try:
            await self.call(HsmSession.self_test, Deadline.after(_CHECK_SECONDS))
        except HsmBusy:
            return
        except HsmError as error:
            _log.warning("HSM fails its check", extra={"fields": {"hsm": self.id, "reason": str(error)}})
        else:
            self._checked_at = time.monotonic()
            self._log_slowness()
            if not self.listing.running_first:
                await self.listing.refresh()

    def _log_slowness(self) -> None:
        slowness = self._slowness
        if slowness and not self._too_slow:
            _log.warning("HSM too slow for integrity values", extra={"fields": {"hsm": self.id, "reason": slowness}})
        self._too_slow = bool(slowness)

    async def try_to_serve(self) -> None:
        """Bring it into service if a test has succeeded since it went out of service, and a session is free."""
        if self._connector.passed_tests > self._seen_passed_tests and self._pool.free:
            await self._serve()
            return
        failure, attempt = self._connector.failure, self._connector.attempt
        if failure is not None and failure is not self._seen_failure:
            self._seen_failure = failure
            self._unavailable(failure)
            self._tried.set()
        elif attempt is not None and time.monotonic() - attempt.since > self._hsm.connect_timeout_s:
            self._unavailable(TokenUnavailable(f"connecting takes longer than {self._hsm.connect_timeout_s:g} s"))

    def _unavailable(self, error: HsmError) -> None:
        reason = str(error)
        if reason != self._reason or self.state is State.CONNECTING:
            _log.error("HSM unavailable", extra={"fields": {"hsm": self.id, "reason": reason}})
        self.state, self._reason = State.DOWN, reason
        self._pool.close(error)

    async def _serve(self) -> None:
        passed_tests = self._connector.passed_tests
        self._pool.open()
        self._checked_at = time.monotonic()
        # Otherwise sessions would have to search for keys while requests wait, which would miss their deadlines.
        await self.listing.begin(_LISTING_SECONDS)
        self._seen_passed_tests, self._seen_failure = passed_tests, None
        self.state, self._reason, self._failures = State.SERVING, "", 0
        self.returns += 1
        self._tried.set()
        _log.info("HSM in service", extra={"fields": {"hsm": self.id}})
        for call in self.when_in_service:
            call()

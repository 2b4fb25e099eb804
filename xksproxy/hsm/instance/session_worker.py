"""A session worker: one thread that owns one session and takes calls from a queue."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from xksproxy.deadline import Deadline
from xksproxy.hsm._native import Call, CallQueue, NativeSession
from xksproxy.hsm.errors import CiphertextWrong, DeadlinePassed, HsmBusy, HsmError, SessionLost, TokenUnavailable
from xksproxy.hsm.instance.gcm_requests import OUTPUT_DIFFERS, GcmOperation, Operation
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_opener import SessionOpener
from xksproxy.state.usage import UsageBook

_log: Final = logging.getLogger(__name__)


class SessionCall(Call):
    """A request to a session: made on the event loop, served on a worker's thread, answered on the loop."""

    __slots__ = (
        "_deadline",
        "_error",
        "_future",
        "_gcm",
        "_key",
        "_on_stuck",
        "_operation",
        "_queue",
        "_served",
        "_timer",
        "_value",
    )

    def __init__(
        self, work: Operation[Any], deadline: Deadline, queue: "CallQueue[SessionCall]", on_stuck: Callable[[int], None]
    ) -> None:
        self._operation = work
        self._deadline = deadline
        self._queue = queue
        self._on_stuck = on_stuck
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._gcm: GcmOperation | None = None
        self._key = -1
        self._served = False
        self._value: Any = None
        self._error: HsmError | None = None

    def offer(self, gcm: GcmOperation, key: int, usage: UsageBook) -> None:
        """Allow a native session that knows the key to make the call; ``key`` is the key's number."""
        self._gcm, self._key = gcm, key
        gcm.prepare(self, key, usage)

    async def result(self) -> Any:
        """Wait for the answer until the deadline. If a claimed call has not returned by then, its worker is stuck.

        That also holds for a call whose caller was cancelled, as the slower of two hedged calls.

        Raises:
            HsmBusy: no worker became free in time.
            DeadlinePassed: the HSM did not answer in time.
            HsmError: the session raised it.
        """
        self._timer = asyncio.get_running_loop().call_later(self._deadline.remaining(), self._expire)
        try:
            return await self._future
        except asyncio.CancelledError:
            if self._queue.withdraw(self):
                self._timer.cancel()
            raise

    def given_up(self) -> bool:
        """Whether the answer is not awaited any more."""
        return self._deadline.passed() or self._future.done()

    def serve(self, session: HsmSession) -> None:
        """Run the operation in Python. A failure of the native session is classified as if it had happened here.

        Raises:
            HsmError: the operation failed. The worker passes it to :meth:`fail`.
        """
        session.raise_next(self.take_failure())
        if self._gcm is not None and self.attempted:
            self._gcm.attempted()
        if self.differs:
            raise CiphertextWrong(OUTPUT_DIFFERS)
        try:
            self._value = self._operation(session)
        except HsmError:
            raise
        except Exception as error:
            raise TokenUnavailable(f"unexpected {type(error).__name__} in an HSM call") from error
        self._served = True
        if self._gcm is not None:
            session.allow_native(self._gcm.label, self._key, self._gcm.fingerprint)

    def fail(self, error: HsmError) -> None:
        """Answer with a failure."""
        self._error = error

    def settle(self) -> None:
        """Give the caller its answer; on the event loop, when the call is finished."""
        if self._timer is not None:
            self._timer.cancel()
        if self._future.done():
            return
        if self._error is not None:
            self._future.set_exception(self._error)
        elif self._served or self._gcm is None:
            self._future.set_result(self._value)
        else:
            self._future.set_result(self._gcm.outcome(self))

    def _expire(self) -> None:
        if self._queue.withdraw(self):
            self._refuse(HsmBusy("no HSM session became free in time"))
        elif (worker := self._queue.abandon(self)) is not None:
            self._refuse(DeadlinePassed("the HSM call did not return in time"))
            self._on_stuck(worker)

    def _refuse(self, error: HsmError) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class SessionWorker:
    """A daemon thread with a session of its own, which is opened at its first call and replaced when it is lost.

    A worker whose call does not return in time is replaced; when the call returns later, the worker ends.
    """

    def __init__(
        self,
        name: str,
        number: int,
        queue: "CallQueue[SessionCall]",
        opener: SessionOpener,
        on_return: Callable[["SessionWorker"], None],
    ) -> None:
        self.number = number
        self._queue = queue
        self._opener = opener
        self._on_return = on_return
        self._session: HsmSession | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; the queue ends it."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, but no longer than so many seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        replaced = False
        while not replaced and (call := self._queue.get(self.number, self._native_session())) is not None:
            if not call.abandoned:
                self._serve(call)
            replaced = not self._queue.finish(call)
            del call  # it may hold a plaintext, and the next call may come much later
        self._discard()
        if replaced:
            try:
                self._loop.call_soon_threadsafe(self._on_return, self)
            except RuntimeError:
                # The loop has closed: the worker is leaving.
                return

    def _native_session(self) -> NativeSession | None:
        return None if self._session is None else self._session.native_session

    def _serve(self, call: SessionCall) -> None:
        try:
            with self._opener.module_lock():
                self._run_on_session(call)
        except HsmError as error:
            call.fail(error)
        except Exception as error:  # noqa: BLE001 - a worker must outlive whatever a module or its binding does
            _log.exception("unexpected failure of an HSM session")
            call.fail(TokenUnavailable(f"unexpected {type(error).__name__} in an HSM session"))

    def _run_on_session(self, call: SessionCall) -> None:
        """Run the call; if its session turns out to be lost, once more on a fresh one. All calls are safe to repeat."""
        try:
            self._try_on_session(call)
        except SessionLost:
            if call.given_up():
                raise
            self._try_on_session(call)

    def _try_on_session(self, call: SessionCall) -> None:
        if self._session is None or not self._session.alive:
            self._session = self._opener.open()
        try:
            call.serve(self._session)
        except HsmError as error:
            if error.discards_session:
                _log.warning("HSM session closed after a failure", extra={"fields": {"reason": str(error)}})
                self._session.close()
                self._session = None
            raise

    def _discard(self) -> None:
        """Close the session at the end, unless the module is being initialised again."""
        if self._session is None:
            return
        try:
            with self._opener.module_lock():
                if self._session.alive:  # otherwise its handle may belong to another session now
                    self._session.close()
        except HsmError:
            return

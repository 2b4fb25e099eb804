"""One call to an HSM: made on the event loop, run by a session worker, answered on the event loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from xksproxy.deadline import Deadline
from xksproxy.hsm._native import Call, CallQueue
from xksproxy.hsm.errors import CiphertextWrong, DeadlinePassed, HsmBusy, HsmError, TokenUnavailable
from xksproxy.hsm.instance.gcm_requests import OUTPUT_DIFFERS, Decryption, GcmOperation, Operation
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.calls_inside import CallInside
from xksproxy.state.usage import UsageBook


class SessionCall(Call):
    """A request to a session: made on the event loop, served on a worker's thread, answered on the loop."""

    __slots__ = (
        "_call_seconds",
        "_deadline",
        "_error",
        "_future",
        "_gcm",
        "_key",
        "_operation",
        "_queue",
        "_served",
        "_thread",
        "_timer",
        "_value",
    )

    def __init__(self, work: Operation[Any], deadline: Deadline, queue: "CallQueue[SessionCall]") -> None:
        self._operation = work
        self._deadline = deadline
        self._queue = queue
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._gcm = work if isinstance(work, GcmOperation) else None
        self._key: int | None = None
        self._thread: int | None = None
        self._served = False
        self._call_seconds: float | None = None
        self._value: Any = None
        self._error: HsmError | None = None

    def offer(self, gcm: GcmOperation, key: int, usage: UsageBook) -> None:
        """Allow a native session that knows the key to make the call; ``key`` is the key's number."""
        self._key = key
        gcm.prepare(self, key, usage)

    async def result(self, needed: float) -> Any:
        """Wait for the answer until the deadline. A call that has begun continues after it, and its answer is dropped.

        ``needed``: the expected seconds of the call. If less time is left, the call does not begin.

        Raises:
            HsmBusy: no worker became free in time.
            DeadlinePassed: the HSM did not answer in time.
            HsmError: the session raised it.
        """
        begin_within = max(0.0, self._deadline.remaining() - needed)
        self._timer = asyncio.get_running_loop().call_later(begin_within, self._require_begun)
        try:
            return await self._future
        except asyncio.CancelledError:
            self._queue.withdraw(self)
            raise

    def inside_since(self, call_of: Callable[[int], CallInside | None]) -> float | None:
        """The monotonic time at which it entered the module; None while it is not inside."""
        if self.claimed_at is None or self.finished_at is not None:
            return None
        if self._thread is None:
            return self.claimed_at
        call = call_of(self._thread)
        return None if call is None else call.entered_at

    def serve(self, session: HsmSession) -> None:
        """Run the operation in Python. A failure of the native session is classified like one of this call.

        Raises:
            HsmError: the operation failed. The worker passes it to :meth:`fail`.
        """
        if self._deadline.passed() and not self.attempted:
            raise HsmBusy("no HSM session became free in time")
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
        self._call_seconds = session.take_call_seconds()
        if self._gcm is not None and self._key is not None:
            session.allow_native(self._gcm.label, self._key, self._gcm.fingerprint)

    def begin_in_python(self) -> None:
        """Note the serving thread, so that only its time inside the module counts as time of the HSM."""
        self._thread = threading.get_ident()

    def fail(self, error: HsmError) -> None:
        """Answer with a failure."""
        self._error = error

    def refuse(self, error: HsmError) -> bool:
        """Answer with a failure if no worker has taken the call. Returns whether it did. On the event loop."""
        if not self._queue.withdraw(self):
            return False
        self._answer(error)
        return True

    def give_up(self) -> None:
        """Answer a stuck call with DeadlinePassed. On the event loop."""
        self._answer(DeadlinePassed("the HSM call does not return"))

    @property
    def module_seconds(self) -> float | None:
        """The seconds that its GCM call was inside the module; None if it is not finished or made no GCM call."""
        if self._call_seconds is None and self._thread is None and self.attempted and self.claimed_at is not None:
            calls = 1 if self._gcm is None else self._gcm.calls
            return None if self.finished_at is None else (self.finished_at - self.claimed_at) / calls
        return self._call_seconds

    def settled_encryption(self) -> tuple[str, bytes] | None:
        """Label and IV of a successful encryption; None for any other call."""
        if self._error is not None or self._gcm is None or isinstance(self._gcm, Decryption):
            return None
        return self._gcm.label, self._gcm.iv_of(self._value) if self._served else self.iv

    def settle(self) -> None:
        """Give the answer to the caller when the call is finished. On the event loop."""
        if self._timer is not None:
            self._timer.cancel()
        if self._future.done():
            return
        if self.finished_at is not None and self.finished_at > self._deadline.at:
            self._future.set_exception(DeadlinePassed("the HSM call did not return in time"))
        elif self._error is not None:
            self._future.set_exception(self._error)
        elif self._served or self._gcm is None:
            self._future.set_result(self._value)
        else:
            self._future.set_result(self._gcm.outcome(self))

    def _require_begun(self) -> None:
        if self.refuse(HsmBusy("no HSM session became free in time")):
            return
        self._timer = asyncio.get_running_loop().call_later(self._deadline.remaining(), self._expire)

    def _expire(self) -> None:
        self._answer(DeadlinePassed("the HSM call did not return in time"))

    def _answer(self, error: HsmError) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._future.done():
            self._future.set_exception(error)

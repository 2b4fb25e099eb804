"""A lane: one thread that owns one session and takes its work from a queue."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import DeadlinePassed, HsmBusy, HsmError, SessionLost, TokenUnavailable
from xksproxy.hsm.opener import SessionOpener
from xksproxy.hsm.session import HsmSession

_log: Final = logging.getLogger(__name__)


class Job:
    """A call that waits for a lane. Made on the event loop, run on a lane's thread, answered on the loop."""

    __slots__ = (
        "_claim",
        "_deadline",
        "_expired",
        "_future",
        "_lane",
        "_loop",
        "_on_stuck",
        "_work",
        "claimed_at",
        "made_at",
    )

    def __init__(
        self, work: Callable[[HsmSession], Any], deadline: Deadline, on_stuck: Callable[["Lane"], None]
    ) -> None:
        self._work = work
        self._deadline = deadline
        self._on_stuck = on_stuck
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()
        self._claim = threading.Lock()
        """Guards the two below: a job is either claimed by a lane or has expired, whichever comes first."""
        self._lane: Lane | None = None
        self._expired = False
        self.made_at = time.monotonic()
        self.claimed_at: float | None = None
        """When a lane took it, on the monotonic clock; None while it waits."""

    async def result(self) -> Any:
        """Wait for the answer until the deadline. A call that does not return by then makes its lane a stuck one.

        Raises:
            HsmBusy: no lane came free in time.
            DeadlinePassed: the HSM did not answer in time.
            HsmError: what the session raised.
        """
        timer = self._loop.call_later(self._deadline.remaining(), self._expire)
        try:
            return await self._future
        finally:
            timer.cancel()

    def claim(self, lane: "Lane") -> bool:
        """Take the job for a lane; False if nobody waits for it any more."""
        with self._claim:
            if self._expired or self._future.done():
                return False
            self._lane = lane
            self.claimed_at = time.monotonic()
            return True

    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._deadline.passed() or self._future.done()

    def run(self, session: HsmSession) -> None:
        """Do the work and hand the result over.

        Raises:
            HsmError: the work failed; the lane hands that over and judges its session by it.
        """
        try:
            result = self._work(session)
        except HsmError:
            raise
        except Exception as error:
            raise TokenUnavailable(f"unexpected {type(error).__name__} in an HSM call") from error
        self._hand_over(self._resolve, result)

    def fail(self, error: HsmError) -> None:
        """Answer with a failure."""
        self._hand_over(self._reject, error)

    def _hand_over(self, settle: Callable[[Any], None], value: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(settle, value)
        except RuntimeError:
            # The loop has closed: the worker is leaving.
            return

    def _resolve(self, result: Any) -> None:
        if not self._future.done():
            self._future.set_result(result)

    def _reject(self, error: HsmError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def _expire(self) -> None:
        with self._claim:
            self._expired = True
        if self._lane is None:
            self._reject(HsmBusy("no HSM session came free in time"))
        else:
            self._on_stuck(self._lane)
            self._reject(DeadlinePassed("the HSM call did not return in time"))


class Lane:
    """A daemon thread with a session of its own, opened when first needed and replaced when it is lost.

    A lane whose call did not return in time is replaced by another one; when the call returns after all, the lane ends.
    """

    def __init__(
        self, name: str, queue: SimpleQueue[Job | None], opener: SessionOpener, on_return: Callable[["Lane"], None]
    ) -> None:
        self._queue = queue
        self._opener = opener
        self._on_return = on_return
        self._session: HsmSession | None = None
        self._loop = asyncio.get_running_loop()
        self.replaced = False
        """Set on the event loop when the lane is stuck; read by its thread."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Let the thread run; a None in the queue ends it."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, but no longer than so many seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self.replaced and (job := self._queue.get()) is not None:
            if job.claim(self):
                self._serve(job)
        self._discard()
        if self.replaced:
            try:
                self._loop.call_soon_threadsafe(self._on_return, self)
            except RuntimeError:
                return

    def _serve(self, job: Job) -> None:
        try:
            with self._opener.gate():
                self._run_on_session(job)
        except HsmError as error:
            job.fail(error)
        except Exception as error:  # noqa: BLE001 - a lane must outlive whatever a module or its binding does
            _log.exception("unexpected failure of an HSM session")
            job.fail(TokenUnavailable(f"unexpected {type(error).__name__} in an HSM session"))

    def _run_on_session(self, job: Job) -> None:
        """Run the job; if its session turns out to be lost, once more on a fresh one. All jobs are safe to repeat."""
        try:
            self._try_on_session(job)
        except SessionLost:
            if job.abandoned():
                raise
            self._try_on_session(job)

    def _try_on_session(self, job: Job) -> None:
        if self._session is None or not self._session.alive:
            self._session = self._opener.open()
        try:
            job.run(self._session)
        except HsmError as error:
            if error.discards_session:
                _log.warning("HSM session given up", extra={"fields": {"reason": str(error)}})
                self._session.close()
                self._session = None
            raise

    def _discard(self) -> None:
        """Give the session back at the end, unless the module is being initialised again just now."""
        if self._session is None or not self._session.alive:
            return
        try:
            with self._opener.gate():
                self._session.close()
        except HsmError:
            return

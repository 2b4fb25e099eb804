"""A lane: one thread that owns one session and takes its work from a queue."""

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import DeadlinePassed, HsmBusy, HsmError, TokenUnavailable
from xksproxy.hsm.session import HsmSession

_log: Final = logging.getLogger(__name__)


class Job:
    """A call that waits for a lane. Made on the event loop, run on a lane's thread, answered on the loop."""

    __slots__ = ("_deadline", "_future", "_loop", "_started", "_work")

    def __init__(self, work: Callable[[HsmSession], Any], deadline: Deadline) -> None:
        self._work = work
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()
        self._started = False

    async def result(self) -> Any:
        """Wait for the answer until the deadline. A call that runs on is left to its lane.

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

    def run(self, session: HsmSession) -> None:
        """Do the work and hand the result over; a job nobody waits for any more is skipped.

        Raises:
            HsmError: what was handed over as the failure, for the lane to judge its session by.
        """
        if self._deadline.passed():
            return
        self._started = True
        try:
            result = self._work(session)
        except HsmError as error:
            self.fail(error)
            raise
        except Exception as error:
            unexpected = TokenUnavailable(f"unexpected {type(error).__name__} in an HSM call")
            self.fail(unexpected)
            raise unexpected from error
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
        self._reject(
            DeadlinePassed("the HSM call did not return in time")
            if self._started
            else HsmBusy("no HSM session came free in time"),
        )


class Lane:
    """A daemon thread with a session of its own, opened when first needed and replaced when it is lost."""

    def __init__(self, name: str, queue: SimpleQueue[Job | None], open_session: Callable[[], HsmSession]) -> None:
        self._queue = queue
        self._open_session = open_session
        self._session: HsmSession | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Let the thread run; a None in the queue ends it."""
        self._thread.start()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._serve(job)
        self._discard()

    def _serve(self, job: Job) -> None:
        try:
            if self._session is None:
                self._session = self._open_session()
        except HsmError as error:
            job.fail(error)
            return
        try:
            job.run(self._session)
        except HsmError as error:
            if error.discards_session:
                _log.warning("HSM session given up", extra={"fields": {"reason": str(error)}})
                self._discard()

    def _discard(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

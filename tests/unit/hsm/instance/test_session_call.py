"""Jobs that wait for a worker, and what becomes of them when nobody waits any more."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from xksproxy.deadline import Deadline
from xksproxy.hsm._native import CallQueue
from xksproxy.hsm.errors import DeadlinePassed, HsmBusy, TokenUnavailable
from xksproxy.hsm.instance.session_worker import SessionCall, SessionWorker
from xksproxy.hsm.pkcs11.module_lock import ModuleLock


class Waiting:
    """A call in a queue, and who waits for it."""

    def __init__(self, seconds: float) -> None:
        self.queue: Any = CallQueue()
        self.stuck: list[int] = []
        self.call = SessionCall(lambda _: None, Deadline.after(seconds), self.queue, self.stuck.append)
        self.queue.put(self.call)
        self.result = asyncio.create_task(self.call.result())

    def claim(self) -> None:
        assert self.queue.get(5, None) is self.call

    async def goes(self) -> None:
        """Whoever waits does so no longer."""
        await asyncio.sleep(0)
        self.result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.result

    def timer_is_over(self) -> bool:
        timer = self.call._timer
        return timer is not None and timer.cancelled()


async def test_a_call_that_no_worker_takes_in_time_is_refused_as_busy_and_never_taken() -> None:
    waiting = Waiting(0.01)
    with pytest.raises(HsmBusy):
        await waiting.result

    waiting.queue.end(1)
    assert waiting.queue.get(5, None) is None
    assert waiting.stuck == []


async def test_a_call_that_does_not_return_in_time_costs_its_worker() -> None:
    waiting = Waiting(0.01)
    waiting.claim()
    with pytest.raises(DeadlinePassed):
        await waiting.result

    assert waiting.stuck == [5]
    assert waiting.call.abandoned
    assert not waiting.queue.finish(waiting.call)


async def test_a_call_that_does_not_return_in_time_is_answered_although_its_worker_cannot_be_replaced() -> None:
    """A process that has too many threads can start none."""
    waiting = Waiting(0.01)
    waiting.claim()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail(_: int) -> None:
        raise RuntimeError("can't start new thread")

    waiting.call._on_stuck = fail

    with pytest.raises(DeadlinePassed):
        await waiting.result
    assert len(failures) == 1


async def test_a_call_whose_caller_goes_before_a_worker_takes_it_is_taken_by_none() -> None:
    waiting = Waiting(3600)
    await waiting.goes()

    waiting.queue.end(1)
    assert waiting.queue.get(5, None) is None
    assert waiting.timer_is_over()


async def test_a_call_whose_caller_goes_costs_its_worker_all_the_same_if_it_does_not_return() -> None:
    waiting = Waiting(3600)
    await asyncio.sleep(0)
    waiting.claim()
    await waiting.goes()
    assert not waiting.timer_is_over()

    waiting.call._expire()

    assert waiting.stuck == [5]
    assert not waiting.queue.finish(waiting.call)


async def test_a_call_whose_caller_goes_costs_nothing_if_it_returns() -> None:
    waiting = Waiting(3600)
    waiting.claim()
    await waiting.goes()

    assert waiting.queue.finish(waiting.call)
    waiting.call.settle()

    assert waiting.timer_is_over()


async def test_a_call_that_is_finished_before_its_deadline_is_answered_after_it() -> None:
    """The event loop may see both at once."""
    waiting = Waiting(3600)
    await asyncio.sleep(0)
    waiting.claim()
    waiting.call.fail(TokenUnavailable("told"))
    waiting.queue.finish(waiting.call)
    waiting.call._expire()
    waiting.call.settle()

    with pytest.raises(TokenUnavailable, match="told"):
        await waiting.result
    assert waiting.stuck == []
    assert waiting.timer_is_over()


async def test_a_worker_closes_no_session_of_a_module_that_was_initialised_again() -> None:
    """Its handle may be another session's by now."""
    closed: list[bool] = []

    class Renewed(ModuleLock):
        """One whose module is initialised again just before a thread enters."""

        def __enter__(self) -> None:
            session.alive = False
            super().__enter__()

    session = SimpleNamespace(alive=True, close=lambda: closed.append(True))
    module_lock: ModuleLock = Renewed()
    worker = SessionWorker("worker", 0, CallQueue(), SimpleNamespace(module_lock=lambda: module_lock), lambda _: None)  # type: ignore[arg-type]
    worker._session = session  # type: ignore[assignment]

    worker._discard()
    assert closed == []

    module_lock, session.alive = ModuleLock(), True
    worker._discard()
    assert closed == [True]

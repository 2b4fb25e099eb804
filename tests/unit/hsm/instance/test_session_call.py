"""Calls that wait for a session worker, and their answers when the time is over."""

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from xksproxy.deadline import Deadline
from xksproxy.hsm._native import CallQueue
from xksproxy.hsm.errors import DeadlinePassed, HsmBusy, TokenUnavailable
from xksproxy.hsm.instance.session_call import SessionCall
from xksproxy.hsm.instance.session_worker import SessionWorker
from xksproxy.hsm.pkcs11.calls_inside import CallInside
from xksproxy.hsm.pkcs11.module_lock import ModuleLock


class Waiting:
    """A call in a queue, and its caller."""

    def __init__(self, seconds: float, needed: float = 0) -> None:
        self.queue: Any = CallQueue()
        self.call = SessionCall(lambda _: None, Deadline.after(seconds), self.queue)
        self.queue.put(self.call)
        self.result = asyncio.create_task(self.call.result(needed))

    def claim(self) -> None:
        assert self.queue.get(5, None) is self.call

    async def cancel(self) -> None:
        await asyncio.sleep(0)
        self.result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.result

    def never_taken(self) -> bool:
        self.queue.end(1)
        return self.queue.get(5, None) is None


async def test_a_call_that_no_worker_takes_in_time_is_refused_as_busy_and_never_taken() -> None:
    waiting = Waiting(0.01)
    with pytest.raises(HsmBusy):
        await waiting.result

    assert waiting.never_taken()


async def test_a_call_with_less_time_left_than_it_needs_is_refused_before_its_deadline() -> None:
    waiting = Waiting(3600, needed=3600)
    with pytest.raises(HsmBusy):
        await waiting.result

    assert waiting.never_taken()


async def test_a_call_that_has_begun_is_answered_at_its_deadline_and_goes_on() -> None:
    waiting = Waiting(0.01)
    waiting.claim()
    with pytest.raises(DeadlinePassed):
        await waiting.result

    assert waiting.queue.finish(waiting.call)
    waiting.call.settle()


async def test_a_call_whose_caller_is_cancelled_before_a_worker_takes_it_is_never_taken() -> None:
    waiting = Waiting(3600)
    await waiting.cancel()

    assert waiting.never_taken()


async def test_a_call_whose_caller_is_cancelled_goes_on() -> None:
    waiting = Waiting(3600)
    waiting.claim()
    await waiting.cancel()

    assert waiting.queue.finish(waiting.call)
    waiting.call.settle()


async def test_a_call_that_is_finished_before_its_deadline_is_answered_after_it() -> None:
    """The event loop may see both at once."""
    waiting = Waiting(3600)
    await asyncio.sleep(0)
    waiting.claim()
    waiting.call.fail(TokenUnavailable("its answer"))
    waiting.queue.finish(waiting.call)
    waiting.call.settle()

    with pytest.raises(TokenUnavailable, match="its answer"):
        await waiting.result


async def test_a_call_that_is_finished_after_its_deadline_is_not_answered_with_its_result() -> None:
    waiting = Waiting(0.001)
    waiting.claim()
    await asyncio.to_thread(time.sleep, 0.01)
    waiting.queue.finish(waiting.call)
    waiting.call.settle()

    with pytest.raises(DeadlinePassed):
        await waiting.result


async def test_a_call_is_inside_the_module_from_its_claim_or_from_the_c_function_that_python_called() -> None:
    waiting = Waiting(3600)
    inside = {threading.get_ident(): CallInside("C_Encrypt", 7.0)}
    assert waiting.call.inside_since(inside.get) is None

    waiting.claim()
    assert waiting.call.inside_since(inside.get) == waiting.call.claimed_at
    waiting.call.begin_in_python()
    assert waiting.call.inside_since(inside.get) == 7.0
    assert waiting.call.inside_since({}.get) is None

    waiting.queue.finish(waiting.call)
    assert waiting.call.inside_since(inside.get) is None
    waiting.call.settle()
    await waiting.result


async def test_a_worker_closes_no_session_of_a_module_that_was_initialised_again() -> None:
    """Its handle may belong to another session now."""
    closed: list[bool] = []

    class Renewed(ModuleLock):
        """The lock of a module that is initialised again just before a thread enters."""

        def __enter__(self) -> None:
            session.alive = False
            super().__enter__()

    connector = SimpleNamespace(released=lambda: None)
    nothing = SimpleNamespace(warnings=None, on_return=lambda _: None, on_session=lambda: None)
    worker = SessionWorker("worker", 0, CallQueue(), connector, **vars(nothing))  # type: ignore[arg-type]

    for module_lock, expected in ((Renewed(), []), (ModuleLock(), [True])):
        session = SimpleNamespace(alive=True, close=lambda: closed.append(True), module_lock=module_lock)
        worker._session = session  # type: ignore[assignment]
        worker._discard()
        assert closed == expected
        assert not worker.has_session

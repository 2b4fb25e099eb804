"""The queue between event loop and workers, and how the native types refuse wrong arguments."""

import math
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import pytest
from native_support import FOREVER, TAG, Module, encryption, ended, ivs, made_at, started
from support import PATIENCE_SECONDS

from xksproxy.hsm._native import Call, CallQueue, NativeSession
from xksproxy.hsm.pkcs11.module_lock import ModuleLock


def claimed(queue: CallQueue, worker: int = 3) -> Call:
    call = Call()
    queue.put(call)
    assert queue.get(worker, None) is call
    return call


# What is wrong


def native_session_of(
    functions: object = (1, 1, 1, 1), module_lock: object = None, maximum: object = 0, session: object = 7
) -> object:
    return NativeSession(ModuleLock() if module_lock is None else module_lock, session, functions, maximum, False)


WRONG: Final[dict[str, tuple[type[Exception], Callable[[Any], object]]]] = {
    "module_lock: close without a time": (TypeError, lambda _: ModuleLock().close()),
    "module_lock: close with a text": (TypeError, lambda _: ModuleLock().close("1")),
    "module_lock: close for no number": (ValueError, lambda _: ModuleLock().close(math.nan)),
    "module_lock: close for ever": (ValueError, lambda _: ModuleLock().close(math.inf)),
    "module_lock: close for too long": (ValueError, lambda _: ModuleLock().close(1e300)),
    "module_lock: leave with nobody inside": (RuntimeError, lambda _: ModuleLock().leave()),
    "call: nothing": (TypeError, lambda _: Call().set_gcm()),
    "call: a key that is no number": (TypeError, lambda _: Call().set_gcm("0", None, True, b"", b"", b"")),
    "call: a negative key": (ValueError, lambda _: Call().set_gcm(-1, None, True, b"", b"", b"")),
    "call: a huge key": (OverflowError, lambda _: Call().set_gcm(2**64, None, True, b"", b"", b"")),
    "call: an IV of 17 bytes": (ValueError, lambda _: Call().set_gcm(0, None, True, bytes(17), b"", b"")),
    "call: a text as IV": (TypeError, lambda _: Call().set_gcm(0, None, True, 12, b"", b"")),
    "call: a text as AAD": (TypeError, lambda _: Call().set_gcm(0, None, True, b"", "", b"")),
    "call: data that may change": (TypeError, lambda _: Call().set_gcm(0, None, True, b"", b"", bytearray())),
    "call: a ciphertext without a tag": (ValueError, lambda _: Call().set_gcm(0, None, False, b"", b"", bytes(15))),
    "call: a second request": (RuntimeError, lambda _: encryption().set_gcm(0, None, True, b"", b"", b"")),
    "native_session: no module_lock": (TypeError, lambda _: native_session_of(module_lock=object())),
    "native_session: three functions": (TypeError, lambda _: native_session_of((1, 1, 1))),
    "native_session: a function that is no address": (TypeError, lambda _: native_session_of((1, 1, 1, "1"))),
    "native_session: the first function missing": (ValueError, lambda _: native_session_of((0, 1, 1, 1))),
    "native_session: the second function missing": (ValueError, lambda _: native_session_of((1, 0, 1, 1))),
    "native_session: the third function missing": (ValueError, lambda _: native_session_of((1, 1, 0, 1))),
    "native_session: the fourth function missing": (ValueError, lambda _: native_session_of((1, 1, 1, 0))),
    "native_session: a negative maximum": (ValueError, lambda _: native_session_of(maximum=-1)),
    "native_session: a session that is no number": (TypeError, lambda _: native_session_of(session=None)),
    "native_session: allow nothing": (TypeError, lambda native_session: native_session.allow_key()),
    "native_session: allow a negative key": (
        ValueError,
        lambda native_session: native_session.allow_key(-1, 1, 1.0, True, True, None),
    ),
    "native_session: allow a huge key": (
        ValueError,
        lambda native_session: native_session.allow_key(2**31, 1, 1.0, True, True, None),
    ),
    "native_session: allow until no time": (
        TypeError,
        lambda native_session: native_session.allow_key(0, 1, "", True, True, None),
    ),
    "native_session: revoke_key no number": (TypeError, lambda native_session: native_session.revoke_key(None)),
    "native_session: revoke a huge key": (OverflowError, lambda native_session: native_session.revoke_key(2**64)),
    "native_session: a text as IVs": (TypeError, lambda native_session: native_session.replace_ivs("")),
    "native_session: mutable IVs": (
        TypeError,
        lambda native_session: native_session.replace_ivs(bytearray(12)),
    ),
    "native_session: IVs of 13 bytes": (ValueError, lambda native_session: native_session.replace_ivs(bytes(13))),
    "queue: put nothing": (TypeError, lambda _: CallQueue().put()),
    "queue: put no call": (TypeError, lambda _: CallQueue().put(object())),
    "queue: finish no call": (TypeError, lambda _: CallQueue().finish(object())),
    "queue: withdraw no call": (TypeError, lambda _: CallQueue().withdraw(None)),
    "queue: abandon no call": (TypeError, lambda _: CallQueue().abandon(1)),
    "queue: get without a worker": (TypeError, lambda _: CallQueue().get()),
    "queue: get for a worker that is no number": (TypeError, lambda _: CallQueue().get("", None)),
    "queue: get for a negative worker": (ValueError, lambda _: CallQueue().get(-1, None)),
    "queue: get at what is no native_session": (TypeError, lambda _: CallQueue().get(0, ModuleLock())),
    "queue: end no number": (TypeError, lambda _: CallQueue().end(None)),
    "queue: end fewer than none": (ValueError, lambda _: CallQueue().end(-1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_raises(native_session: NativeSession, name: str) -> None:
    kind, wrong = WRONG[name]

    with pytest.raises(kind):
        wrong(native_session)


def test_a_native_session_with_which_something_was_done_wrong_works_on(native_session: NativeSession) -> None:
    for kind, wrong in WRONG.values():
        with pytest.raises(kind):
            wrong(native_session)

    assert made_at(native_session, encryption())


def test_a_request_is_not_changed_once_it_is_queued() -> None:
    call = Call()
    CallQueue().put(call)

    with pytest.raises(RuntimeError):
        call.set_gcm(0, None, True, b"", b"", b"")


# The queue


def test_a_call_has_the_times_at_which_it_was_claimed_and_finished() -> None:
    queue, call = CallQueue(), Call()
    queue.put(call)
    assert (call.claimed_at, call.finished_at) == (None, None)

    before = time.monotonic()
    queue.get(0, None)
    assert call.finished_at is None
    queue.finish(call)

    assert before <= call.claimed_at <= call.finished_at <= time.monotonic()


def test_a_call_of_another_queue_is_refused() -> None:
    own, other = CallQueue(), CallQueue()
    call = claimed(own)

    for wrong in (other.finish, other.withdraw, other.abandon):
        with pytest.raises(ValueError, match="another queue"):
            wrong(call)


def test_no_more_workers_end_than_were_to() -> None:
    queue = CallQueue()
    for _ in range(50):
        queue.end(1)
        assert queue.get(0, None) is None
        call, served = Call(), []
        worker = started(lambda served=served: served.append(queue.get(0, None)))
        queue.put(call)
        queue.wake()

        assert ended(worker)
        assert served == [call]


def test_idle_workers_end() -> None:
    queue = CallQueue()
    workers = [started(lambda: queue.get(0, None)) for _ in range(3)]

    queue.end(3)

    assert ended(*workers)


def test_one_wake_brings_as_many_idle_workers_as_calls_wait() -> None:
    queue = CallQueue()
    meeting = threading.Barrier(4)

    def worker() -> None:
        while queue.get(0, None) is not None:
            meeting.wait(PATIENCE_SECONDS)  # nobody goes on before each has a call

    workers = [started(worker) for _ in range(3)]
    for _ in range(300):
        for _ in workers:
            queue.put(Call())
        queue.wake()
        meeting.wait(PATIENCE_SECONDS)

    queue.end(3)
    assert ended(*workers)


def test_a_queue_releases_its_calls() -> None:
    class Tracked(Call):
        """One that can be referred to weakly."""

    queue = CallQueue()
    waiting, finished, withdrawn, abandoned = calls = [Tracked() for _ in range(4)]
    for call in (finished, abandoned, withdrawn, waiting):
        queue.put(call)
    queue.get(0, None)
    queue.get(0, None)
    queue.finish(finished)
    queue.abandon(abandoned)
    queue.finish(abandoned)
    queue.withdraw(withdrawn)
    held = [weakref.ref(call) for call in calls]
    del waiting, finished, withdrawn, abandoned, calls, call

    assert [reference() is not None for reference in held] == [True, True, False, False]
    del queue
    assert [reference() for reference in held] == [None] * 4


def test_calls_that_were_handed_on_are_held_by_their_owners_alone() -> None:
    queue = CallQueue()
    call = Call()
    alone = sys.getrefcount(call)

    queue.put(call)
    queue.get(0, None)
    assert sys.getrefcount(call) == alone
    queue.finish(call)
    queue.finished()
    assert sys.getrefcount(call) == alone


def test_many_workers_give_each_call_its_own_answer(module_lock: ModuleLock) -> None:
    """Loops of C that run at once, while calls are withdrawn and abandoned between them."""
    queue = CallQueue()
    modules = [Module() for _ in range(4)]

    def worker(number: int) -> None:
        native_session = NativeSession(module_lock, number, modules[number].functions, 0, False)
        native_session.allow_key(0, 70, FOREVER, True, True, None)
        while (call := queue.get(number, native_session)) is not None:
            native_session.replace_ivs(ivs(5))
            queue.finish(call)

    workers = [started(lambda number=number: worker(number)) for number in range(len(modules))]
    awaited: dict[int, Call] = {}
    finished: list[Call] = []
    for number in range(3000):
        call = encryption(b"%d" % number, aad=b"")
        queue.put(call)
        awaited[number] = call
        if number % 3 == 0:
            queue.wake()
        if number % 7 == 0:
            other = awaited.get(number // 2, call)
            if queue.withdraw(other) or queue.abandon(other) is not None:
                awaited = {key: value for key, value in awaited.items() if value is not other}
        finished += queue.finished()
    queue.end(len(workers))
    assert ended(*workers)
    finished += queue.finished()

    assert len(finished) == len(set(map(id, finished)))
    assert {id(call) for call in finished} == {id(call) for call in awaited.values()}
    for number, call in awaited.items():
        assert call.output in (b"%d" % number + TAG, b"")
    assert sum(call.output == b"" for call in awaited.values()) < len(awaited) / 2

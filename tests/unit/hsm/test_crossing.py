"""The queue between event loop and lanes, and how the types of the crossing take what is wrong."""

import math
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import pytest
from crossing_support import FOREVER, TAG, Module, encryption, ended, ivs, made_at, started
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from support import PATIENCE_SECONDS

from xksproxy.hsm._crossing import Call, Desk, Queue
from xksproxy.hsm.gate import Gate


def claimed(queue: Queue, lane: int = 3) -> Call:
    call = Call()
    queue.put(call)
    assert queue.get(lane, None) is call
    return call


def readable(queue: Queue) -> bool:
    return bool(select.select([queue], [], [], 0)[0])


# What is wrong


def desk_of(functions: object = (1, 1, 1, 1), gate: object = None, maximum: object = 0, session: object = 7) -> object:
    return Desk(Gate() if gate is None else gate, session, functions, maximum, False)


WRONG: Final[dict[str, tuple[type[Exception], Callable[[Any], object]]]] = {
    "gate: close without a time": (TypeError, lambda _: Gate().close()),
    "gate: close with a text": (TypeError, lambda _: Gate().close("1")),
    "gate: close for no number": (ValueError, lambda _: Gate().close(math.nan)),
    "gate: close for ever": (ValueError, lambda _: Gate().close(math.inf)),
    "gate: close for too long": (ValueError, lambda _: Gate().close(1e300)),
    "gate: leave with nobody inside": (RuntimeError, lambda _: Gate().leave()),
    "call: nothing": (TypeError, lambda _: Call().for_desk()),
    "call: a key that is no number": (TypeError, lambda _: Call().for_desk("0", None, True, b"", b"", b"")),
    "call: a negative key": (ValueError, lambda _: Call().for_desk(-1, None, True, b"", b"", b"")),
    "call: a huge key": (OverflowError, lambda _: Call().for_desk(2**64, None, True, b"", b"", b"")),
    "call: an IV of 17 bytes": (ValueError, lambda _: Call().for_desk(0, None, True, bytes(17), b"", b"")),
    "call: a text as IV": (TypeError, lambda _: Call().for_desk(0, None, True, 12, b"", b"")),
    "call: a text as AAD": (TypeError, lambda _: Call().for_desk(0, None, True, b"", "", b"")),
    "call: data that may change": (TypeError, lambda _: Call().for_desk(0, None, True, b"", b"", bytearray())),
    "call: a ciphertext without a tag": (ValueError, lambda _: Call().for_desk(0, None, False, b"", b"", bytes(15))),
    "call: a second request": (RuntimeError, lambda _: encryption().for_desk(0, None, True, b"", b"", b"")),
    "desk: no gate": (TypeError, lambda _: desk_of(gate=object())),
    "desk: three functions": (TypeError, lambda _: desk_of((1, 1, 1))),
    "desk: a function that is no address": (TypeError, lambda _: desk_of((1, 1, 1, "1"))),
    "desk: the first function missing": (ValueError, lambda _: desk_of((0, 1, 1, 1))),
    "desk: the second function missing": (ValueError, lambda _: desk_of((1, 0, 1, 1))),
    "desk: the third function missing": (ValueError, lambda _: desk_of((1, 1, 0, 1))),
    "desk: the fourth function missing": (ValueError, lambda _: desk_of((1, 1, 1, 0))),
    "desk: a negative maximum": (ValueError, lambda _: desk_of(maximum=-1)),
    "desk: a session that is no number": (TypeError, lambda _: desk_of(session=None)),
    "desk: arm nothing": (TypeError, lambda desk: desk.arm()),
    "desk: arm a negative key": (ValueError, lambda desk: desk.arm(-1, 1, 1.0, True, True, None)),
    "desk: arm a huge key": (ValueError, lambda desk: desk.arm(2**31, 1, 1.0, True, True, None)),
    "desk: arm until no time": (TypeError, lambda desk: desk.arm(0, 1, "", True, True, None)),
    "desk: disarm no number": (TypeError, lambda desk: desk.disarm(None)),
    "desk: disarm a huge key": (OverflowError, lambda desk: desk.disarm(2**64)),
    "desk: a text as IVs": (TypeError, lambda desk: desk.stock("")),
    "desk: IVs that may change": (TypeError, lambda desk: desk.stock(bytearray(12))),
    "desk: IVs of 13 bytes": (ValueError, lambda desk: desk.stock(bytes(13))),
    "queue: put nothing": (TypeError, lambda _: Queue().put()),
    "queue: put no call": (TypeError, lambda _: Queue().put(object())),
    "queue: finish no call": (TypeError, lambda _: Queue().finish(object())),
    "queue: withdraw no call": (TypeError, lambda _: Queue().withdraw(None)),
    "queue: abandon no call": (TypeError, lambda _: Queue().abandon(1)),
    "queue: get without a lane": (TypeError, lambda _: Queue().get()),
    "queue: get for a lane that is no number": (TypeError, lambda _: Queue().get("", None)),
    "queue: get for a negative lane": (ValueError, lambda _: Queue().get(-1, None)),
    "queue: get at what is no desk": (TypeError, lambda _: Queue().get(0, Gate())),
    "queue: end no number": (TypeError, lambda _: Queue().end(None)),
    "queue: end fewer than none": (ValueError, lambda _: Queue().end(-1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_raises(desk: Desk, name: str) -> None:
    kind, wrong = WRONG[name]

    with pytest.raises(kind):
        wrong(desk)


def test_a_desk_with_which_something_was_done_wrong_works_on(desk: Desk) -> None:
    for kind, wrong in WRONG.values():
        with pytest.raises(kind):
            wrong(desk)

    assert made_at(desk, encryption())


def test_a_request_is_not_changed_once_it_is_queued() -> None:
    call = Call()
    Queue().put(call)

    with pytest.raises(RuntimeError):
        call.for_desk(0, None, True, b"", b"", b"")


# The queue


def test_calls_are_served_in_the_order_of_the_queue() -> None:
    queue = Queue()
    calls = [Call() for _ in range(5)]
    for call in calls:
        queue.put(call)

    assert [queue.get(0, None) for _ in calls] == calls


def test_a_call_is_put_into_a_queue_once() -> None:
    call = claimed(Queue())

    with pytest.raises(RuntimeError):
        Queue().put(call)


def test_a_call_tells_when_it_was_claimed() -> None:
    queue = Queue()
    call = Call()
    queue.put(call)
    assert call.claimed_at is None

    before = time.monotonic()
    queue.get(0, None)

    assert call.claimed_at is not None
    assert before <= call.claimed_at <= time.monotonic()


@pytest.mark.parametrize("which", range(3))
def test_a_withdrawn_call_is_served_to_nobody_and_the_others_stay_in_order(which: int) -> None:
    queue = Queue()
    calls = [Call() for _ in range(3)]
    for call in calls:
        queue.put(call)

    assert queue.withdraw(calls[which])

    later = Call()
    queue.put(later)
    others = [call for call in calls if call is not calls[which]]
    assert [queue.get(0, None) for _ in range(3)] == [*others, later]
    assert not queue.withdraw(calls[which])


def test_only_a_call_that_waits_can_be_withdrawn() -> None:
    queue = Queue()
    assert not queue.withdraw(Call())

    call = claimed(queue)
    assert not queue.withdraw(call)
    assert queue.finish(call)
    assert not queue.withdraw(call)
    assert queue.finished() == [call]


def test_only_a_claimed_call_can_be_abandoned_and_its_lane_is_told() -> None:
    queue = Queue()
    call = Call()
    assert queue.abandon(call) is None
    queue.put(call)
    assert queue.abandon(call) is None
    queue.get(5, None)
    assert not call.abandoned

    assert queue.abandon(call) == 5
    assert call.abandoned
    assert queue.abandon(call) is None

    other = claimed(queue)
    queue.finish(other)
    assert queue.abandon(other) is None
    assert not other.abandoned


def test_an_abandoned_call_is_not_finished() -> None:
    queue = Queue()
    call = claimed(queue)
    queue.abandon(call)

    assert not queue.finish(call)
    assert queue.finished() == []
    assert not readable(queue)


def test_only_a_claimed_call_can_be_finished_and_only_once() -> None:
    queue = Queue()
    made, waiting, withdrawn = Call(), Call(), Call()
    finished = claimed(queue)
    queue.finish(finished)
    queue.put(waiting)
    queue.put(withdrawn)
    queue.withdraw(withdrawn)

    for call in (made, waiting, withdrawn, finished):
        with pytest.raises(RuntimeError):
            queue.finish(call)

    assert queue.finished() == [finished]
    with pytest.raises(RuntimeError):
        queue.finish(finished)


def test_a_call_of_another_queue_is_refused() -> None:
    own, other = Queue(), Queue()
    call = claimed(own)

    for wrong in (other.finish, other.withdraw, other.abandon):
        with pytest.raises(ValueError, match="another queue"):
            wrong(call)


def test_finished_calls_are_told_once_in_their_order() -> None:
    queue = Queue()
    first, second = claimed(queue), claimed(queue)
    queue.finish(second)
    queue.finish(first)

    assert queue.finished() == [second, first]
    assert queue.finished() == []


def test_the_descriptor_is_readable_while_calls_are_finished() -> None:
    queue = Queue()
    for _ in range(2):
        first, second = claimed(queue), claimed(queue)
        assert not readable(queue)
        queue.finish(first)
        assert readable(queue)
        queue.finish(second)
        assert readable(queue)
        assert queue.finished() == [first, second]
        assert not readable(queue)


def test_a_lane_ends_when_nothing_waits_any_more() -> None:
    queue = Queue()
    call = Call()
    queue.put(call)
    queue.end(2)

    assert [queue.get(0, None) for _ in range(3)] == [call, None, None]


def test_no_more_lanes_end_than_were_to() -> None:
    queue = Queue()
    for _ in range(50):
        queue.end(1)
        assert queue.get(0, None) is None
        call, served = Call(), []
        lane = started(lambda served=served: served.append(queue.get(0, None)))
        queue.put(call)
        queue.wake()

        assert ended(lane)
        assert served == [call]


def test_idle_lanes_end() -> None:
    queue = Queue()
    lanes = [started(lambda: queue.get(0, None)) for _ in range(3)]

    queue.end(3)

    assert ended(*lanes)


def test_one_wake_brings_as_many_idle_lanes_as_calls_wait() -> None:
    queue = Queue()
    meeting = threading.Barrier(4)

    def lane() -> None:
        while queue.get(0, None) is not None:
            meeting.wait(PATIENCE_SECONDS)  # nobody goes on before each has a call

    lanes = [started(lane) for _ in range(3)]
    for _ in range(300):
        for _ in lanes:
            queue.put(Call())
        queue.wake()
        meeting.wait(PATIENCE_SECONDS)

    queue.end(3)
    assert ended(*lanes)


def test_a_queue_lets_go_of_its_calls() -> None:
    class Tracked(Call):
        """One that can be referred to weakly."""

    queue = Queue()
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
    queue = Queue()
    call = Call()
    alone = sys.getrefcount(call)

    queue.put(call)
    queue.get(0, None)
    assert sys.getrefcount(call) == alone
    queue.finish(call)
    queue.finished()
    assert sys.getrefcount(call) == alone


class QueueAgainstModel(RuleBasedStateMachine):
    """Whatever is done in whatever order, a queue does what lists would."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.lanes = count()
        self.waiting: list[Call] = []
        self.claimed: dict[int, int] = {}
        self.finished: list[Call] = []
        self.abandoned: set[int] = set()
        self.ending = 0
        self.kept: list[Call] = []  # so that no id is used twice

    @rule(target=calls)
    def make(self) -> Call:
        call = Call()
        self.kept.append(call)
        return call

    @rule(target=calls)
    def make_and_put(self) -> Call:
        call = self.make()
        self.put(call)
        return call

    @rule(call=calls)
    def put(self, call: Call) -> None:
        if call.claimed_at is not None or call in self.waiting or call.abandoned:
            with pytest.raises(RuntimeError):
                self.queue.put(call)
            return
        self.queue.put(call)
        self.waiting.append(call)

    @precondition(lambda self: self.waiting or self.ending)
    @rule()
    def get(self) -> None:
        lane = next(self.lanes)
        call = self.queue.get(lane, None)
        if self.waiting:
            assert call is self.waiting.pop(0)
            self.claimed[id(call)] = lane
        else:
            assert call is None
            self.ending -= 1

    @rule(call=calls)
    def withdraw(self, call: Call) -> None:
        assert self.queue.withdraw(call) == (call in self.waiting)
        if call in self.waiting:
            self.waiting.remove(call)
            self.abandoned.add(id(call))

    @rule(call=calls)
    def abandon(self, call: Call) -> None:
        lane = None if id(call) in self.abandoned else self.claimed.get(id(call))
        assert self.queue.abandon(call) == lane
        if lane is not None:
            self.abandoned.add(id(call))

    @rule(call=calls)
    def finish(self, call: Call) -> None:
        if id(call) not in self.claimed:
            with pytest.raises(RuntimeError):
                self.queue.finish(call)
        elif id(call) in self.abandoned:
            assert not self.queue.finish(call)
        else:
            assert self.queue.finish(call)
            self.finished.append(call)
            del self.claimed[id(call)]

    @rule()
    def take_finished(self) -> None:
        assert self.queue.finished() == self.finished
        self.finished = []

    @rule(lanes=st.integers(0, 2))
    def end(self, lanes: int) -> None:
        self.queue.end(lanes)
        self.ending += lanes

    @rule()
    def wake(self) -> None:
        self.queue.wake()

    @invariant()
    def the_descriptor_says_whether_calls_are_finished(self) -> None:
        assert readable(self.queue) == bool(self.finished)

    @invariant()
    def those_that_were_given_up_say_so(self) -> None:
        assert {id(call) for call in self.kept if call.abandoned} == self.abandoned


TestQueueAgainstModel = QueueAgainstModel.TestCase


def test_many_lanes_give_each_call_its_own_answer(gate: Gate) -> None:
    """Loops of C that run at once, while calls are withdrawn and abandoned between them."""
    queue = Queue()
    modules = [Module() for _ in range(4)]

    def lane(number: int) -> None:
        desk = Desk(gate, number, modules[number].functions, 0, False)
        desk.arm(0, 70, FOREVER, True, True, None)
        while (call := queue.get(number, desk)) is not None:
            desk.stock(ivs(5))
            queue.finish(call)

    lanes = [started(lambda number=number: lane(number)) for number in range(len(modules))]
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
    queue.end(len(lanes))
    assert ended(*lanes)
    finished += queue.finished()

    assert len(finished) == len(set(map(id, finished)))
    assert {id(call) for call in finished} == {id(call) for call in awaited.values()}
    for number, call in awaited.items():
        assert call.output in (b"%d" % number + TAG, b"")
    assert sum(call.output == b"" for call in awaited.values()) < len(awaited) / 2

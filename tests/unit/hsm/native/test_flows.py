"""The order in which calls of several flows are taken from a queue."""

import gc
import weakref
from typing import Any

import pytest

from xksproxy.hsm._native import Call, CallQueue, Flow


class Named(Call):
    """A call with a name."""

    def __init__(self, name: str) -> None:
        self.name = name


def fill(queue: Any, flow: Flow, names: str, calls: int = 1) -> list[Named]:
    made = [Named(name) for name in names.split()]
    for call in made:
        queue.put(call, flow, calls)
    return made


def taken(queue: Any, count: int) -> str:
    return " ".join(queue.get(0, None).name for _ in range(count))


def test_flows_are_served_in_turn() -> None:
    queue: Any = CallQueue()
    fill(queue, Flow(1), "a1 a2 a3 a4")
    fill(queue, Flow(1), "b1 b2")
    fill(queue, Flow(1), "c1 c2 c3")

    assert taken(queue, 9) == "a1 b1 c1 a2 b2 c2 a3 c3 a4"


def test_a_flow_gets_calls_by_its_weight() -> None:
    queue: Any = CallQueue()
    fill(queue, Flow(1), " ".join("a" * 30))
    fill(queue, Flow(3), " ".join("b" * 30))

    assert taken(queue, 20).count("b") == 15


def test_a_request_of_two_calls_counts_twice() -> None:
    queue: Any = CallQueue()
    fill(queue, Flow(1), " ".join("a" * 30), calls=2)
    fill(queue, Flow(1), " ".join("b" * 30))

    assert taken(queue, 30).count("b") == 20


def test_a_flow_that_was_empty_is_served_next_and_has_saved_nothing_up() -> None:
    queue: Any = CallQueue()
    busy, other = Flow(1), Flow(1)
    fill(queue, busy, " ".join("a" * 50))
    taken(queue, 20)
    fill(queue, other, "b b b b")

    assert taken(queue, 6) == "b a b a b a"


def test_flows_that_were_empty_are_served_in_the_order_in_which_they_came() -> None:
    queue: Any = CallQueue()
    fill(queue, Flow(1), "a a a a a a")
    fill(queue, Flow(1), "b b b b b b")
    taken(queue, 5)
    assert queue.turn()[1] == 0
    fill(queue, Flow(1), "c c")
    fill(queue, Flow(1), "d d")

    assert queue.turn()[1] == 2
    assert taken(queue, 2) == "c d"
    assert queue.turn()[1] == 0


def test_calls_that_were_withdrawn_cost_their_flow_nothing() -> None:
    queue: Any = CallQueue()
    flow = Flow(1)
    for call in fill(queue, flow, " ".join("x" * 20)):
        queue.withdraw(call)
    fill(queue, Flow(1), "b b b")
    fill(queue, flow, "a a a")

    assert taken(queue, 6) == "b a b a b a"


def test_the_start_of_a_flow_moves_by_what_was_served_of_it() -> None:
    queue: Any = CallQueue()
    flow = Flow(4)
    fill(queue, flow, "a b", calls=2)
    assert (queue.start_of(flow), queue.turn()) == (0.0, (0.0, 1))

    taken(queue, 2)

    assert (queue.start_of(flow), queue.turn()) == (1.0, (0.5, 0))


def test_calls_without_a_flow_have_one_together() -> None:
    queue: Any = CallQueue()
    for name in ("x1", "x2", "x3"):
        queue.put(Named(name))
    fill(queue, Flow(1), "a1 a2")

    assert taken(queue, 5) == "x1 a1 x2 a2 x3"


def test_a_waiting_call_keeps_its_flow_and_a_forgotten_queue_releases_both() -> None:
    queue: Any = CallQueue()
    (call,) = fill(queue, Flow(1), "a")
    held = weakref.ref(call)
    gc.collect()
    assert taken(queue, 1) == "a"

    fill(queue, Flow(1), "b")
    del call, queue
    assert held() is None


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e7, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Flow(weight)


def test_a_flow_belongs_to_one_queue() -> None:
    queue: Any = CallQueue()
    flow = Flow(1)
    fill(queue, flow, "a")
    other: Any = CallQueue()

    with pytest.raises(ValueError, match="another queue"):
        other.put(Call(), flow)
    with pytest.raises(TypeError):
        queue.put(Call(), object())
    with pytest.raises(TypeError):
        queue.start_of(None)
    with pytest.raises(RuntimeError):
        queue.put(Call(), flow, 0)

"""How long requests of several key stores wait. Calls take 100 s here, so that no busy machine makes a difference."""

import time
from typing import Any

import pytest

from xksproxy.hsm._native import CallQueue
from xksproxy.hsm.instance.outstanding_calls import OutstandingCalls
from xksproxy.hsm.instance.session_call import SessionCall
from xksproxy.hsm.instance.shares import Share

EACH = 100.0
GREEDY, MODEST, HEAVY = Share("greedy", 1), Share("modest", 1), Share("heavy", 4)


class Hsm:
    """Outstanding calls of an HSM with one session, and their queue."""

    def __init__(self) -> None:
        self.queue: Any = CallQueue()
        self.calls: Any = OutstandingCalls(self.queue)
        self.calls.latency.add(EACH)
        self.calls.tick(0.1)

    def add(self, share: Share, count: int) -> None:
        for _ in range(count):
            call = Call()
            self.queue.put(call, self.calls.add(call, 1, share), 1)

    def begin(self) -> None:
        """Let the session take a call. It began just now."""
        self.queue.get(0, None)

    def waits(self, share: Share) -> float:
        """The number of calls before one of a share that comes now, the running one included."""
        seconds: float = self.calls.expected_seconds(1, 1, share)
        return round((seconds - 2 * EACH) / EACH / 1.1) + 1

    def accepts(self, share: Share, calls: float) -> bool:
        """Whether a request is accepted that has the time of so many calls left."""
        return self.calls.reserve(1, 1, calls * EACH / 0.95, share) is not None


class Call(SessionCall):
    """One without work."""

    def __init__(self) -> None:
        pass


@pytest.fixture
def hsm() -> Hsm:
    return Hsm()


def test_a_request_waits_for_the_calls_of_its_own_key_store(hsm: Hsm) -> None:
    hsm.add(GREEDY, 8)
    hsm.begin()

    assert hsm.waits(GREEDY) == 8


def test_a_request_waits_behind_no_calls_of_a_key_store_that_has_more_than_its_share(hsm: Hsm) -> None:
    hsm.add(GREEDY, 8)
    hsm.begin()

    assert hsm.waits(MODEST) == 1
    assert hsm.accepts(MODEST, 2.5)
    assert not hsm.accepts(GREEDY, 2.5)


def test_a_request_waits_for_the_calls_of_others_that_have_their_turn_before_it(hsm: Hsm) -> None:
    hsm.add(GREEDY, 8)
    hsm.begin()
    hsm.add(MODEST, 3)

    assert hsm.waits(GREEDY) == 1 + 7 + 3
    assert hsm.waits(MODEST) == 1 + 3 + 3


def test_a_heavier_key_store_has_more_turns(hsm: Hsm) -> None:
    hsm.add(GREEDY, 40)
    hsm.begin()
    hsm.add(HEAVY, 8)

    assert 1 + 8 + 2 <= hsm.waits(HEAVY) <= 1 + 8 + 3


def test_key_stores_that_return_at_once_wait_for_each_other(hsm: Hsm) -> None:
    hsm.add(GREEDY, 8)
    hsm.begin()
    for number in range(5):
        hsm.add(Share(f"other-{number}", 1), 1)

    assert hsm.waits(MODEST) == 1 + 5


def test_calls_that_others_will_ask_for_meanwhile_are_expected(hsm: Hsm) -> None:
    hsm.add(GREEDY, 4)
    hsm.begin()
    assert hsm.accepts(GREEDY, 6)

    for _ in range(20):
        hsm.add(MODEST, 6)
        for call in list(hsm.calls)[4:]:
            hsm.queue.withdraw(call)
            hsm.calls.remove(call)
        hsm.calls.tick(EACH)

    assert not hsm.accepts(GREEDY, 6)
    assert hsm.accepts(GREEDY, 12)


def test_a_key_store_that_asks_for_nothing_any_more_is_forgotten(hsm: Hsm) -> None:
    hsm.add(GREEDY, 4)
    hsm.add(MODEST, 1)
    *others, last = list(hsm.calls)
    hsm.queue.withdraw(last)
    hsm.calls.remove(last)
    for _ in range(30):
        hsm.calls.tick(1)

    assert len(list(hsm.calls._shares)) == 1
    assert len(others) == 4


def test_the_times_of_running_calls_are_known_whichever_key_store_is_served_first(hsm: Hsm) -> None:
    hsm.add(GREEDY, 3)
    hsm.add(MODEST, 1)
    for _ in range(2):
        hsm.begin()
    time.sleep(0.001)

    assert 0.001 <= hsm.calls.running_seconds < EACH
    assert len(hsm.calls._shares.running()) == 2

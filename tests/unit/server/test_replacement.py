"""A worker takes another's place only when it serves what that serves."""

import msgspec
import pytest

from xksproxy.hsm.instance.instance import State
from xksproxy.server.conditions import Cause, Condition, Severity
from xksproxy.server.replacement import SUCCESSOR_SECONDS, Verdict, assess, served, without_hsm
from xksproxy.server.worker_status import HsmStatus, WorkerStatus


def worker(**states: State) -> WorkerStatus:
    hsms = tuple(
        HsmStatus(hsm_id, state.value, f"reason of {hsm_id}", "", "", 0, 1, 0) for hsm_id, state in states.items()
    )
    return WorkerStatus(1, 0.0, 0.0, 0, True, hsms, ())


DOWN = next(state for state in State if state is not State.SERVING)
NEEDED = frozenset({"a", "b"})
STORES = frozenset({"payments"})


def test_what_any_of_them_has_in_service_is_served() -> None:
    assert served([worker(a=State.SERVING, b=DOWN), worker(b=State.SERVING, c=DOWN)]) == {"a", "b"}


@pytest.mark.parametrize("seconds", [0, SUCCESSOR_SECONDS + 1])
def test_a_successor_serves_with_all_that_is_needed_whatever_else_it_lacks(seconds: float) -> None:
    successor = worker(a=State.SERVING, b=State.SERVING, c=DOWN)
    assert assess(successor, NEEDED, STORES, beats=True, seconds=seconds) == (Verdict.SERVES, ())
    assert assess(None, frozenset(), frozenset(), beats=True, seconds=seconds) == (Verdict.SERVES, ())


@pytest.mark.parametrize("successor", [None, worker(a=State.SERVING, b=DOWN), worker(a=State.SERVING)])
def test_a_successor_that_lacks_something_has_its_time_and_then_fails(successor: WorkerStatus | None) -> None:
    assert assess(successor, NEEDED, STORES, beats=True, seconds=1) == (Verdict.STARTING, ())
    verdict, lacks = assess(successor, NEEDED, STORES, beats=True, seconds=SUCCESSOR_SECONDS)
    assert verdict is Verdict.FAILS
    assert "HSM b does not serve" in lacks[-1]


def test_a_successor_that_accepts_no_connections_fails_in_the_end() -> None:
    successor = worker(a=State.SERVING, b=State.SERVING)
    assert assess(successor, NEEDED, STORES, beats=False, seconds=1)[0] is Verdict.STARTING
    assert assess(successor, NEEDED, STORES, beats=False, seconds=SUCCESSOR_SECONDS)[0] is Verdict.FAILS


def test_the_reason_is_that_of_the_hsm() -> None:
    _, lacks = assess(worker(a=State.SERVING, b=DOWN), NEEDED, STORES, beats=True, seconds=SUCCESSOR_SECONDS)
    assert list(lacks) == ["HSM b does not serve: reason of b"]


def without(store: str, **states: State) -> WorkerStatus:
    """A worker in which a key store has no HSM."""
    conditions = (Condition(Severity.UNAVAILABLE, Cause.NO_HSM, store, "", "no HSM of it serves"),)
    return msgspec.structs.replace(worker(**states), conditions=conditions)


def test_a_key_store_that_was_served_has_to_be_served_by_whatever_hsm() -> None:
    """The only HSM got another id, and cannot be used under it."""
    nothing = frozenset[str]()
    for successor in (without("payments", renamed=DOWN), None):
        assert assess(successor, nothing, STORES, beats=True, seconds=1) == (Verdict.STARTING, ())
        assert assess(successor, nothing, STORES, beats=True, seconds=SUCCESSOR_SECONDS)[0] is Verdict.FAILS
    _, lacks = assess(without("payments", renamed=DOWN), nothing, STORES, beats=True, seconds=SUCCESSOR_SECONDS)
    assert list(lacks) == ["HSM renamed does not serve: reason of renamed"]

    served_elsewhere = worker(renamed=State.SERVING)
    assert assess(served_elsewhere, nothing, STORES, beats=True, seconds=1) == (Verdict.SERVES, ())
    never_served = without("other", renamed=DOWN)
    assert assess(never_served, nothing, STORES, beats=True, seconds=1) == (Verdict.SERVES, ())


def test_key_stores_without_an_hsm_are_found_by_their_condition() -> None:
    assert without_hsm([worker(a=State.SERVING), without("payments", a=DOWN)]) == {"payments"}

"""A worker takes another's place only when it serves what that serves."""

import pytest

from xksproxy.hsm.instance import State
from xksproxy.server.replacement import PATIENCE_SECONDS, Verdict, judge, served
from xksproxy.server.views import HsmView, WorkerView


def view(**states: State) -> WorkerView:
    hsms = tuple(
        HsmView(hsm_id, state.value, f"reason of {hsm_id}", "", "", 0, 1, 0) for hsm_id, state in states.items()
    )
    return WorkerView(1, 0.0, 0.0, 0, True, "", hsms, ())


DOWN = next(state for state in State if state is not State.SERVING)
NEEDED = frozenset({"a", "b"})


def test_what_any_of_them_has_in_service_is_served() -> None:
    assert served([view(a=State.SERVING, b=DOWN), view(b=State.SERVING, c=DOWN)]) == {"a", "b"}


@pytest.mark.parametrize("seconds", [0, PATIENCE_SECONDS + 1])
def test_a_successor_serves_with_all_that_is_needed_whatever_else_it_lacks(seconds: float) -> None:
    successor = view(a=State.SERVING, b=State.SERVING, c=DOWN)
    assert judge(successor, NEEDED, beats=True, seconds=seconds) == (Verdict.SERVES, ())
    assert judge(None, frozenset(), beats=True, seconds=seconds) == (Verdict.SERVES, ())


@pytest.mark.parametrize("successor", [None, view(a=State.SERVING, b=DOWN), view(a=State.SERVING)])
def test_a_successor_that_lacks_something_has_its_time_and_then_fails(successor: WorkerView | None) -> None:
    assert judge(successor, NEEDED, beats=True, seconds=1) == (Verdict.STARTING, ())
    verdict, lacks = judge(successor, NEEDED, beats=True, seconds=PATIENCE_SECONDS)
    assert verdict is Verdict.FAILS
    assert "HSM b does not serve" in lacks[-1]


def test_a_successor_that_accepts_no_connections_fails_in_the_end() -> None:
    successor = view(a=State.SERVING, b=State.SERVING)
    assert judge(successor, NEEDED, beats=False, seconds=1)[0] is Verdict.STARTING
    assert judge(successor, NEEDED, beats=False, seconds=PATIENCE_SECONDS)[0] is Verdict.FAILS


def test_the_reason_is_that_of_the_hsm() -> None:
    _, lacks = judge(view(a=State.SERVING, b=DOWN), NEEDED, beats=True, seconds=PATIENCE_SECONDS)
    assert list(lacks) == ["HSM b does not serve: reason of b"]

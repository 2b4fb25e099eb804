"""How long a request waits for a session. Calls take 100 s here, so that no busy machine makes a difference."""

import time
from typing import Any

import pytest

from xksproxy.hsm._native import CallQueue
from xksproxy.hsm.instance.outstanding_calls import OutstandingCalls
from xksproxy.hsm.instance.shares import Share

EACH = 100.0
ONE = Share("one", 1)


class Call:
    """What is asked of a call: when a worker took it, when it was finished, and how long it was inside the module."""

    def __init__(self, seconds_ago: float | None = None) -> None:
        self.claimed_at = None if seconds_ago is None else time.monotonic() - seconds_ago
        self.finished_at: float | None = None
        self.module_seconds: float | None = None


@pytest.fixture
def calls() -> OutstandingCalls:
    """Of an HSM whose calls take :data:`EACH`."""
    outstanding: Any = OutstandingCalls(CallQueue())
    measured = Call()
    measured.module_seconds = EACH
    outstanding.finish(measured)
    return outstanding  # type: ignore[no-any-return]


def add(calls: Any, *running: float | None, each: int = 1) -> None:
    """Calls that began so many seconds ago; None: one that waits."""
    for seconds_ago in running:
        calls.add(Call(seconds_ago), each, ONE)


@pytest.mark.parametrize(
    ("running", "waiting"),
    [
        ([], 0),
        ([0], 0),
        ([0, 30], 70),
        ([0, 30, None], 100),
        ([0, 0], 100),
        ([0, 0, None, None], 210),
        ([80, 90, None, None, None], 130),
        ([150, 0], 0),
    ],
)
def test_a_request_waits_until_a_running_call_ends_and_those_before_it_have_been_made(
    calls: OutstandingCalls, running: list[float | None], waiting: float
) -> None:
    add(calls, *running)

    assert calls.expected_seconds(2, 1, ONE) == pytest.approx(waiting + EACH, abs=1)


def test_a_request_of_two_calls_occupies_its_session_for_both(calls: OutstandingCalls) -> None:
    add(calls, 30, 30, each=2)

    assert calls.expected_seconds(2, 1, ONE) == pytest.approx(170 + EACH, abs=1)
    add(calls, None, None, each=2)
    assert calls.expected_seconds(2, 1, ONE) == pytest.approx(170 + 220 + EACH, abs=1)


@pytest.mark.parametrize(("remaining", "accepted"), [(175, False), (200, True)])
def test_a_request_is_accepted_only_if_it_can_be_answered_in_the_remaining_time(
    calls: OutstandingCalls, remaining: float, accepted: bool
) -> None:
    add(calls, 20, 20)

    assert (calls.reserve(2, 1, remaining, ONE) is not None) is accepted


def test_a_request_that_finds_an_idle_session_is_tried_however_slow_the_hsm_was(calls: OutstandingCalls) -> None:
    assert calls.reserve(2, 1, 1, ONE) == pytest.approx(EACH, abs=1)


def test_a_call_is_worth_a_try_if_the_last_one_is_long_ago_and_a_session_is_idle(calls: Any) -> None:
    assert not calls.may_be_faster(2)
    calls.latency._sampled_at -= 1.1
    add(calls, 0)
    assert calls.may_be_faster(2)
    add(calls, 0)
    assert not calls.may_be_faster(2)

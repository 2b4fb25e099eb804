"""The deadline of a request (R-TIME-1), on a clock that moves only when told."""

import time

import pytest

from xksproxy.deadline import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The monotonic clock, stopped."""
    stopped = Clock()
    monkeypatch.setattr(time, "monotonic", stopped)
    return stopped


def test_a_deadline_lies_as_far_ahead_as_asked(clock: Clock) -> None:
    assert Deadline.after(0.25) == Deadline(1000.25)


def test_what_remains_shrinks_with_time(clock: Clock) -> None:
    deadline = Deadline.after(0.25)
    assert deadline.remaining() == 0.25

    clock.now += 0.125
    assert deadline.remaining() == 0.125


@pytest.mark.parametrize("late", [0, 0.125, 3600])
def test_nothing_remains_once_the_deadline_is_reached_however_late_it_is(clock: Clock, late: float) -> None:
    deadline = Deadline.after(0.25)

    clock.now += 0.25 + late

    assert deadline.remaining() == 0
    assert deadline.passed()


def test_a_deadline_has_not_passed_while_something_remains(clock: Clock) -> None:
    deadline = Deadline.after(0.25)
    assert not deadline.passed()

    clock.now += 0.1875

    assert not deadline.passed()


def test_a_deadline_of_no_time_has_passed_at_once(clock: Clock) -> None:
    assert Deadline.after(0).passed()
    assert Deadline.after(-1).remaining() == 0


def test_a_deadline_does_not_move(clock: Clock) -> None:
    deadline = Deadline.after(0.25)

    clock.now += 0.125

    assert deadline.at == 1000.25
    with pytest.raises(AttributeError):
        deadline.at = 2000  # type: ignore[misc]

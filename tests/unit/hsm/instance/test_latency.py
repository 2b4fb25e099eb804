"""How long a call takes at present."""

import pytest

from xksproxy.hsm.instance import latency as latency_module
from xksproxy.hsm.instance.latency import Latency


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency_module, "time", made)
    return made


def test_nothing_is_known_before_the_first_call(clock: Clock) -> None:
    assert Latency().seconds() == 0


def test_it_follows_the_calls(clock: Clock) -> None:
    latency = Latency()
    latency.add(0.1)
    assert latency.seconds() == 0.1
    for _ in range(40):
        latency.add(0.005)
    assert latency.seconds() == pytest.approx(0.005, rel=0.2)


def test_it_is_forgotten_when_no_call_is_made(clock: Clock) -> None:
    """Otherwise an HSM whose calls are refused for its slowness would never be tried again."""
    latency = Latency()
    latency.add(0.4)
    clock.now += 1
    assert latency.seconds() == 0.4
    clock.now += 4
    assert latency.seconds() == pytest.approx(0.1)
    clock.now += 60
    assert latency.seconds() == 0


def test_the_first_call_after_a_second_replaces_it(clock: Clock) -> None:
    latency = Latency()
    latency.add(0.4)
    clock.now += 0.9
    latency.add(0.001)
    assert latency.seconds() == pytest.approx(0.35, rel=0.01)
    clock.now += 1.1
    latency.add(0.001)
    assert latency.seconds() == 0.001


def test_a_call_is_stuck_after_eight_times_as_long_and_never_below_a_second(clock: Clock) -> None:
    latency = Latency()
    latency.add(0.01)
    assert latency.stuck_after == 1
    latency.add(3)
    assert latency.stuck_after == pytest.approx(8 * latency.seconds())
    assert latency.stuck_after > 3


def test_one_slow_call_is_not_the_usual(clock: Clock) -> None:
    latency = Latency()
    latency.add(0.4)
    latency.add(0.4)
    assert latency.usual == 0
    latency.add(0.4)
    assert latency.usual == 0.4
    for seconds, usual in ((0.001, 0.4), (0.001, 0.001), (0.4, 0.001), (0.4, 0.4)):
        clock.now += 5
        latency.add(seconds)
        assert latency.usual == usual

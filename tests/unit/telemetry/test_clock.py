"""A clock that is wrong shows by signatures that are right, and not by a few late ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.telemetry.clock import ClockObservations


def observed(*offsets: float, now: float = 0.0) -> ClockObservations:
    """Signatures with these offsets; above 300 s they are refused, as R-AUTH-10 asks."""
    clock = ClockObservations()
    for offset in offsets:
        clock.add(offset, refused=abs(offset) > 300, now=now)
    return clock


def test_without_a_signature_nothing_is_known() -> None:
    assert ClockObservations().offset(0.0) is None
    assert ClockObservations().error(0.0) is None


@pytest.mark.parametrize("offset", [10_800.0, -10_800.0])
def test_a_clock_by_which_every_signature_is_refused_is_wrong_by_the_offset(offset: float) -> None:
    clock = observed(*[offset] * 3)

    assert (clock.offset(1.0), clock.error(1.0)) == (offset, offset)


def test_a_clock_that_is_off_and_accepted_shows_its_offset_only() -> None:
    clock = observed(120.0, 121.0, 122.0)

    assert (clock.offset(1.0), clock.error(1.0)) == (121.0, None)


@pytest.mark.parametrize("refused", [1, 2])
def test_fewer_than_three_refusals_are_no_clock_error(refused: int) -> None:
    assert observed(*[400.0] * refused).error(1.0) is None


@pytest.mark.parametrize(("accepted", "clock_error"), [(3, 400.0), (4, None), (5, None)])
def test_refusals_must_be_most_of_the_signatures(accepted: int, clock_error: float | None) -> None:
    assert observed(*[0.0] * accepted, *[400.0] * 4).error(1.0) == clock_error


def test_what_is_older_than_five_minutes_is_forgotten() -> None:
    clock = observed(*[10_800.0] * 10, now=1000.0)

    assert clock.error(1300.0) == 10_800.0
    assert clock.error(1300.1) is None
    assert clock.offset(1300.1) is None


def test_a_clock_that_was_set_right_is_right_after_as_many_signatures() -> None:
    assert observed(*[10_800.0] * 100, *[0.0] * 50).error(1.0) is None


@given(st.lists(st.floats(-1e6, 1e6), max_size=250))
def test_it_is_wrong_exactly_if_most_of_the_latest_hundred_were_refused(offsets: list[float]) -> None:
    latest = offsets[-100:]
    refused = sorted(offset for offset in latest if abs(offset) > 300)
    found = observed(*offsets).error(0.0)

    assert (found is not None) == (len(refused) >= 3 and len(refused) > len(latest) / 2)
    assert found is None or refused[0] <= found <= refused[-1]


def test_a_signature_that_comes_while_another_thread_reads_changes_nothing_for_it() -> None:
    """The event loop adds what the thread that publishes the status reads."""
    clock = observed(10_800.0, 10_800.0, 10_800.0)

    class Now(float):
        def __sub__(self, at: float) -> float:
            clock.add(0.0, refused=False, now=float(self))
            return float(self) - at

    assert clock.error(Now(1.0)) == 10_800.0
    assert clock.offset(Now(1.0)) is not None

"""Of events of a kind one is written in a while, and it says how many it stands for."""

from hypothesis import given
from hypothesis import strategies as st

from xksproxy.telemetry.log_limiter import LogLimiter


def test_the_first_event_is_logged_and_the_next_one_later_counts_those_between() -> None:
    limiter = LogLimiter(60)

    assert [limiter.due("a", now) for now in (0, 1, 59.9, 60, 61, 200)] == [1, None, None, 3, None, 2]


def test_kinds_do_not_hold_each_other_up() -> None:
    limiter = LogLimiter(60)

    assert [limiter.due(kind, 0) for kind in "aba"] == [1, 1, None]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 50)), max_size=50))
def test_no_event_is_lost_and_none_counted_twice(events: list[tuple[str, float]]) -> None:
    limiter, now, written = LogLimiter(60), 0.0, 0
    for kind, later in events:
        now += later
        written += limiter.due(kind, now) or 0

    assert written + sum((limiter.due(kind, now + 61) or 1) - 1 for kind in "ab") == len(events)

"""What a token says about its sessions, compared with what the workers want."""

import pytest

from xksproxy.hsm.instance.session_limits import session_warnings
from xksproxy.hsm.pkcs11.connection import SessionLimits


@pytest.mark.parametrize(
    ("maximum", "text"),
    [
        (4, "each worker wants 5"),
        (5, "2 workers want 10"),
        (9, "lower sessions or server.workers"),
        (10, None),
        (None, None),
    ],
)
def test_a_token_with_too_few_sessions_is_reported_with_the_numbers(maximum: int | None, text: str | None) -> None:
    warnings = session_warnings(SessionLimits(maximum, None), sessions=4, workers=2, read_write=True)

    assert len(warnings) == (text is not None)
    assert all(text in warning and "ulMaxSessionCount" in warning for warning in warnings if text)


def test_fewer_sessions_than_workers_are_said_to_leave_some_workers_without() -> None:
    (warning,) = session_warnings(SessionLimits(5, None), sessions=1, workers=8, read_write=False)

    assert "some workers leave requests to others" in warning


@pytest.mark.parametrize(("read_write", "count"), [(True, 1), (False, 0)])
def test_the_limit_of_read_write_sessions_counts_where_such_are_opened(read_write: bool, count: int) -> None:
    assert len(session_warnings(SessionLimits(None, 1), sessions=4, workers=1, read_write=read_write)) == count

"""The heartbeat of a worker, as gunicorn's master reads it."""

import time
from collections.abc import Iterator
from unittest import mock

import pytest

from xksproxy.server.heartbeat import Heartbeat

TIMEOUT_SECONDS = 30.0


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    made = Heartbeat(object())
    yield made
    made.close()


def is_ended(heartbeat: Heartbeat, *, after: float) -> bool:
    """Whether gunicorn's master ends the worker in ``after`` seconds from now."""
    return time.monotonic() + after - heartbeat.last_update() > TIMEOUT_SECONDS


def test_a_worker_that_hangs_before_its_first_heartbeat_is_ended_after_two_minutes(heartbeat: Heartbeat) -> None:
    assert heartbeat.seconds_ago() is None
    assert not is_ended(heartbeat, after=110)
    assert is_ended(heartbeat, after=121)


def test_a_worker_that_hangs_later_is_ended_after_the_timeout(heartbeat: Heartbeat) -> None:
    heartbeat.notify()

    assert not is_ended(heartbeat, after=20)
    assert is_ended(heartbeat, after=31)


def test_it_tells_how_long_ago_the_last_heartbeat_was(heartbeat: Heartbeat) -> None:
    heartbeat.notify()

    with mock.patch("time.monotonic", return_value=time.monotonic() + 7):
        assert heartbeat.seconds_ago() == pytest.approx(7, abs=1)

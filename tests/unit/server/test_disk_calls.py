"""The master's calls that may wait for a disk."""

import threading
import time

import pytest
from support import PATIENCE_SECONDS, eventually

from xksproxy.server.disk_calls import DiskCalls


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "disk calls"]


def test_a_call_returns_its_result_or_raises_its_exception() -> None:
    calls = DiskCalls()

    assert calls.wait(lambda: 7, PATIENCE_SECONDS) == 7
    with pytest.raises(ZeroDivisionError):
        calls.wait(lambda: 1 // 0, PATIENCE_SECONDS)


def test_a_call_that_hangs_is_given_up_and_those_after_it_are_made_in_order_when_it_returns() -> None:
    calls, answers, made = DiskCalls(), threading.Event(), list[int]()
    with pytest.raises(TimeoutError):
        calls.wait(answers.wait, 0.01)
    with pytest.raises(TimeoutError):
        calls.wait(lambda: made.append(1), 0.01)
    calls.later(lambda: made.append(2))
    calls.settle(0.01)
    assert made == []

    answers.set()

    assert calls.wait(lambda: 3, PATIENCE_SECONDS) == 3
    assert made == [1, 2]


def test_without_a_thread_a_call_fails_at_once_and_a_later_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, made = DiskCalls(), list[int]()

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "_start_new_thread", start)
        with pytest.raises(RuntimeError):
            calls.wait(lambda: made.append(1), PATIENCE_SECONDS)
        calls.settle(PATIENCE_SECONDS)

    assert calls.wait(lambda: 2, PATIENCE_SECONDS) == 2
    assert made == []


def test_no_thread_is_left_when_the_calls_are_settled() -> None:
    calls = DiskCalls()
    for _ in range(50):
        calls.later(lambda: time.sleep(0.001))

        calls.settle(PATIENCE_SECONDS)

        assert _threads() == []


def test_a_thread_ends_by_itself() -> None:
    calls = DiskCalls()
    calls.wait(lambda: 1, PATIENCE_SECONDS)

    eventually(lambda: not _threads())

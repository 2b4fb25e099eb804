import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from xksproxy.hsm.pkcs11 import process_environment
from xksproxy.hsm.pkcs11.process_environment import ProcessEnvironment

NAME = "XKSPROXY_TEST_MODULE_CONF"


@pytest.fixture(autouse=True)
def _variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")


class _Noted(threading.Condition):
    """Notes how long it is waited for."""

    def __init__(self, waited: list[float | None]) -> None:
        super().__init__()
        self._waited = waited

    def wait(self, timeout: float | None = None) -> bool:
        self._waited.append(timeout)
        return super().wait(timeout)


@contextmanager
def held_by_another_thread(environment: ProcessEnvironment, value: str) -> Iterator[threading.Event]:
    """Until the event that is given is set, or the end."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with environment.holding({NAME: value}):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert entered.wait(60)
        yield leave
    finally:
        leave.set()
        thread.join(60)


def test_another_value_of_a_variable_is_set_after_its_holder_has_ended() -> None:
    environment = ProcessEnvironment()
    with held_by_another_thread(environment, "a") as leave:
        threading.Timer(0.2, leave.set).start()

        with environment.holding({NAME: "b"}):
            assert leave.is_set()
            assert os.environ[NAME] == "b"


@pytest.mark.parametrize("variables", [{}, {NAME: "a"}, {"XKSPROXY_TEST_OTHER": "b"}], ids=["none", "same", "other"])
def test_variables_that_do_not_differ_are_set_at_once(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XKSPROXY_TEST_OTHER", "")
    environment = ProcessEnvironment()
    with held_by_another_thread(environment, "a") as leave, environment.holding(variables):
        assert not leave.is_set()
        assert os.environ[NAME] == "a"


def test_a_holder_that_does_not_end_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module is loaded and then initialised, each with its variables."""
    monkeypatch.setattr(process_environment, "_TURN_SECONDS", 0.1)
    environment = ProcessEnvironment()
    waited: list[float | None] = []
    monkeypatch.setattr(environment, "_changed", _Noted(waited))
    with held_by_another_thread(environment, "a"):
        with environment.holding({NAME: "b"}):
            assert waited
        waited.clear()

        with environment.holding({NAME: "b"}):
            assert not waited


def test_a_holder_that_does_not_end_holds_up_another_for_a_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_environment, "_TURN_SECONDS", 0.1)
    environment = ProcessEnvironment()
    with held_by_another_thread(environment, "a") as leave, environment.holding({NAME: "b"}):
        assert not leave.is_set()
        assert os.environ[NAME] == "b"


def test_two_that_a_holder_has_held_up_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """If they went on at the same time, one could read the value of the other."""
    monkeypatch.setattr(process_environment, "_TURN_SECONDS", 2)
    environment = ProcessEnvironment()
    seen: list[tuple[str, str]] = []

    def read_late(value: str) -> None:
        with environment.holding({NAME: value}):
            time.sleep(0.2)
            seen.append((value, os.environ[NAME]))

    with held_by_another_thread(environment, "a"):
        threads = [threading.Thread(target=read_late, args=value) for value in "bc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert sorted(seen) == [("b", "b"), ("c", "c")]

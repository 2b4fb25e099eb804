"""The record of log-in attempts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginBarred, LoginRefused, SessionLost, TokenUnavailable
from xksproxy.hsm.pkcs11 import pin_guard
from xksproxy.hsm.pkcs11.pin_guard import NothingLearnt, PinGuard

WRONG, RIGHT = Secret("wrong"), Secret("right")


class Clock:
    """A clock that advances by a minute each time that it is read, unless it is stopped."""

    now = 1_000_000.0
    step = 60.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(tmp_path: Path, clock: Clock) -> PinGuard:
    (tmp_path / "state").mkdir(0o700)
    return PinGuard(tmp_path / "state", clock)


def refuse(guard: PinGuard, pin: Secret) -> None:
    with pytest.raises(LoginRefused), guard.attempt("hsm", pin):
        raise LoginRefused("CKR_PIN_INCORRECT")


def assert_not_tried(guard: PinGuard, pin: Secret) -> None:
    with pytest.raises(LoginRefused, match="allow-login hsm"), guard.attempt("hsm", pin):
        pytest.fail("it was tried")


def succeed(guard: PinGuard, pin: Secret) -> None:
    with guard.attempt("hsm", pin):
        pass


def cut_off(guard: PinGuard, pin: Secret) -> None:
    """As if the process were killed while it logs in."""
    with pytest.raises(KeyboardInterrupt), guard.attempt("hsm", pin):
        raise KeyboardInterrupt


def test_a_refused_pin_is_not_tried_again_and_another_one_is(guard: PinGuard) -> None:
    refuse(guard, WRONG)

    assert_not_tried(guard, WRONG)
    succeed(guard, RIGHT)
    assert_not_tried(guard, WRONG)
    succeed(guard, RIGHT)


def test_a_pin_whose_attempts_were_cut_off_twice_is_not_tried_again_and_the_reason_says_so(guard: PinGuard) -> None:
    cut_off(guard, WRONG)
    cut_off(guard, WRONG)

    with pytest.raises(LoginRefused, match="cut off inside C_Login") as raised, guard.attempt("hsm", WRONG):
        pytest.fail("it was tried")
    assert "was refused before" not in str(raised.value)


@pytest.mark.parametrize("kind", [TokenUnavailable, SessionLost, LoginBarred, OSError])
def test_an_error_that_is_not_about_the_pin_says_nothing_about_it(guard: PinGuard, kind: type[Exception]) -> None:
    for _ in range(5):
        with pytest.raises(kind), guard.attempt("hsm", RIGHT):
            raise kind("CKR_DEVICE_ERROR")
    cut_off(guard, RIGHT)
    with pytest.raises(kind), guard.attempt("hsm", RIGHT):
        raise kind("CKR_DEVICE_ERROR")

    succeed(guard, RIGHT)


def test_a_log_in_that_did_not_check_the_pin_is_not_recorded_as_accepted(guard: PinGuard) -> None:
    with guard.attempt("hsm", WRONG):
        raise NothingLearnt
    refuse(guard, WRONG)

    assert_not_tried(guard, WRONG)


def test_a_pin_that_was_never_accepted_can_be_kept_from_being_tried(guard: PinGuard) -> None:
    def prevent() -> None:
        raise LoginBarred("the token locks at the next wrong PIN")

    with pytest.raises(LoginBarred), guard.attempt("hsm", RIGHT, before_unknown=prevent):
        pytest.fail("it was tried")
    succeed(guard, RIGHT)
    with guard.attempt("hsm", RIGHT, before_unknown=prevent, before_repeated=prevent):
        pass


def test_a_pin_whose_attempt_was_cut_off_can_be_kept_from_being_tried_again(guard: PinGuard) -> None:
    def prevent() -> None:
        raise LoginBarred("the token reports a wrong PIN")

    with guard.attempt("another", RIGHT, before_repeated=prevent):
        pass
    cut_off(guard, RIGHT)
    with pytest.raises(LoginBarred), guard.attempt("hsm", RIGHT, before_repeated=prevent):
        pytest.fail("it was tried")


@pytest.mark.parametrize(("seconds", "tried"), [(-3600, False), (0, False), (9, False), (11, True)])
def test_after_an_attempt_that_was_cut_off_there_is_a_pause(
    guard: PinGuard, clock: Clock, seconds: float, *, tried: bool
) -> None:
    clock.step = 0
    cut_off(guard, RIGHT)
    clock.now += seconds

    if tried:
        succeed(guard, RIGHT)
    else:
        with pytest.raises(TokenUnavailable, match="cut off inside C_Login; the next attempt is made in"):
            succeed(guard, RIGHT)
        clock.now += 3700
        succeed(guard, RIGHT)


def test_another_process_that_logs_in_is_waited_for_as_long_as_the_caller_wants(guard: PinGuard) -> None:
    asked: list[bool] = []

    def wait() -> bool:
        asked.append(True)
        return len(asked) < 2

    with guard.attempt("hsm", RIGHT), pytest.raises(TokenUnavailable), guard.attempt("hsm", RIGHT, wait=wait):
        pytest.fail("it was tried")
    assert len(asked) == 2


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin_guard, "_HUNG_SECONDS", 0.0)
    monkeypatch.setattr(pin_guard, "_LOCK_ATTEMPT_SECONDS", 0.01)


def a_few_times() -> Callable[[], bool]:
    left = iter([True] * 5)
    return lambda: next(left, False)


@pytest.mark.usefixtures("impatient")
def test_one_process_at_a_time_logs_in_beside_one_that_hangs_with_an_accepted_pin(guard: PinGuard) -> None:
    with guard.attempt("hsm", RIGHT):
        pass
    with guard.attempt("hsm", RIGHT):
        for _ in range(2):
            with (
                guard.attempt("hsm", RIGHT, wait=a_few_times()),
                pytest.raises(TokenUnavailable),
                guard.attempt("hsm", RIGHT, wait=a_few_times()),
            ):
                raise AssertionError("a third process logs in")


@pytest.mark.usefixtures("impatient")
def test_no_process_logs_in_beside_one_that_hangs_with_another_pin(guard: PinGuard) -> None:
    with guard.attempt("hsm", RIGHT):
        pass
    with (
        guard.attempt("hsm", RIGHT),
        pytest.raises(TokenUnavailable),
        guard.attempt("hsm", WRONG, wait=a_few_times()),
    ):
        raise AssertionError("a PIN that was never accepted is tried")


@pytest.mark.usefixtures("impatient")
def test_a_refusal_beside_a_log_in_that_hangs_is_recorded(guard: PinGuard) -> None:
    with guard.attempt("hsm", RIGHT):
        pass
    with guard.attempt("hsm", RIGHT), pytest.raises(LoginRefused), guard.attempt("hsm", RIGHT, wait=a_few_times()):
        raise LoginRefused("0xa0")
    with pytest.raises(LoginRefused, match="refused before"), guard.attempt("hsm", RIGHT):
        raise AssertionError("the PIN is tried again")


def test_an_accepted_pin_is_tried_however_often_it_is_cut_off(guard: PinGuard) -> None:
    succeed(guard, RIGHT)
    for _ in range(5):
        cut_off(guard, RIGHT)

    succeed(guard, RIGHT)


def test_each_hsm_has_a_record_of_its_own(guard: PinGuard) -> None:
    refuse(guard, WRONG)

    with guard.attempt("another", WRONG):
        pass


def test_a_pin_that_a_token_refused_is_not_tried_under_another_id_of_the_hsm(guard: PinGuard) -> None:
    with pytest.raises(LoginRefused), guard.attempt("hsm", WRONG, token="1234"):
        raise LoginRefused("CKR_PIN_INCORRECT")

    with pytest.raises(LoginRefused, match="allow-login renamed"), guard.attempt("renamed", WRONG, token="1234"):
        pytest.fail("it was tried")
    with guard.attempt("hsm", WRONG, token="5678"):
        pass
    assert not guard.forget("another")
    assert guard.forget("renamed")
    with guard.attempt("renamed", WRONG, token="1234"):
        pass


def test_what_an_earlier_release_recorded_by_the_id_of_the_hsm_counts_for_its_token(guard: PinGuard) -> None:
    refuse(guard, WRONG)

    with pytest.raises(LoginRefused), guard.attempt("hsm", WRONG, token="1234"):
        pytest.fail("it was tried")
    with pytest.raises(LoginRefused), guard.attempt("renamed", WRONG, token="1234"):
        pytest.fail("it was tried")
    assert guard.forget("hsm")
    with guard.attempt("renamed", WRONG, token="1234"):
        pass


def test_forgetting_allows_another_attempt(guard: PinGuard) -> None:
    refuse(guard, WRONG)

    assert guard.forget("hsm")
    refuse(guard, WRONG)
    assert not guard.forget("another")


def test_forgetting_keeps_what_was_accepted(guard: PinGuard) -> None:
    succeed(guard, RIGHT)

    assert not guard.forget("hsm")
    for _ in range(3):
        cut_off(guard, RIGHT)
    succeed(guard, RIGHT)


@pytest.mark.parametrize("content", [b"nonsense", b"", b'{"salt":"\xff"}', b'{"more":' + b"[" * 100_000])
def test_a_record_that_cannot_be_read_stops_the_log_in(guard: PinGuard, tmp_path: Path, content: bytes) -> None:
    refuse(guard, WRONG)
    (file,) = (tmp_path / "state").glob("*.json")
    file.write_bytes(content)

    with pytest.raises(TokenUnavailable, match="no log-in is tried"), guard.attempt("hsm", RIGHT):
        pytest.fail("it was tried")


def test_forgetting_repairs_a_record_that_cannot_be_read(guard: PinGuard, tmp_path: Path) -> None:
    refuse(guard, WRONG)
    (file,) = (tmp_path / "state").glob("*.json")
    file.write_bytes(b"nonsense")

    assert guard.forget("hsm")
    succeed(guard, RIGHT)


def test_the_pin_is_not_in_the_record(guard: PinGuard, tmp_path: Path) -> None:
    refuse(guard, Secret("4711x-secret"))

    for file in filter(Path.is_file, (tmp_path / "state").rglob("*")):
        assert b"4711x" not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


def record_of(state: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = state.glob("pin-*.json")
    return path, json.loads(path.read_text())


def test_fields_of_a_later_release_are_accepted_and_kept(guard: PinGuard, tmp_path: Path) -> None:
    refuse(guard, WRONG)
    path, document = record_of(tmp_path / "state")
    (key,) = document["pins"]
    document["later"] = document["pins"][key]["later"] = [1]
    path.write_text(json.dumps(document))

    assert_not_tried(guard, WRONG)
    succeed(guard, RIGHT)

    _, after = record_of(tmp_path / "state")
    assert (after["later"], after["pins"][key]["later"], after["format"]) == ([1], [1], 1)
    assert len(after["pins"]) == 2


def test_a_record_without_a_format_is_read_and_one_of_a_later_format_stops_the_log_in(
    guard: PinGuard, tmp_path: Path
) -> None:
    refuse(guard, WRONG)
    path, document = record_of(tmp_path / "state")
    del document["format"]
    path.write_text(json.dumps(document))
    assert_not_tried(guard, WRONG)

    path.write_text(json.dumps({**document, "format": 2}))
    with pytest.raises(TokenUnavailable, match="a later release wrote it"), guard.attempt("hsm", RIGHT):
        pytest.fail("it was tried")


def test_an_hsm_that_hangs_in_c_login_does_not_hold_up_what_is_allowed_to_another(guard: PinGuard) -> None:
    refuse(guard, WRONG)

    with guard.attempt("other", RIGHT, token="token of another"):
        assert guard.forget("hsm", wait=lambda: pytest.fail("it waited"))


def test_whoever_allows_a_log_in_is_told_at_once_that_another_process_logs_in(guard: PinGuard, tmp_path: Path) -> None:
    asked: list[str] = []

    def give_up() -> bool:
        asked.append("asked")
        return False

    with guard.attempt("hsm", RIGHT, token="its token"):
        with pytest.raises(TokenUnavailable, match=r"nothing was changed: .* another process holds its lock"):
            PinGuard(tmp_path / "state").forget("hsm", wait=give_up)
        assert asked == ["asked"]

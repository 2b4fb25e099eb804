"""What is remembered of log-in attempts."""

from pathlib import Path

import pytest

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginBarred, LoginRefused, TokenUnavailable
from xksproxy.hsm.pkcs11.pin_guard import PinGuard

WRONG, RIGHT = Secret("wrong"), Secret("right")


@pytest.fixture
def guard(tmp_path: Path) -> PinGuard:
    return PinGuard(tmp_path / "state")


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


def test_a_pin_whose_attempts_were_cut_off_twice_counts_as_refused(guard: PinGuard) -> None:
    cut_off(guard, WRONG)
    cut_off(guard, WRONG)

    assert_not_tried(guard, WRONG)


def test_an_accepted_pin_is_tried_however_often_it_is_cut_off(guard: PinGuard) -> None:
    succeed(guard, RIGHT)
    for _ in range(5):
        cut_off(guard, RIGHT)

    succeed(guard, RIGHT)


def test_a_locked_token_says_nothing_about_the_pin(guard: PinGuard) -> None:
    for _ in range(5):
        with pytest.raises(LoginBarred), guard.attempt("hsm", RIGHT):
            raise LoginBarred("CKR_PIN_LOCKED")

    succeed(guard, RIGHT)


def test_each_hsm_has_a_memory_of_its_own(guard: PinGuard) -> None:
    refuse(guard, WRONG)

    with guard.attempt("another", WRONG):
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
def test_a_memory_that_cannot_be_read_stops_the_log_in(guard: PinGuard, tmp_path: Path, content: bytes) -> None:
    refuse(guard, WRONG)
    (file,) = (tmp_path / "state").glob("*.json")
    file.write_bytes(content)

    with pytest.raises(TokenUnavailable, match="no log-in is tried"), guard.attempt("hsm", RIGHT):
        pytest.fail("it was tried")


def test_the_pin_is_not_written_down(guard: PinGuard, tmp_path: Path) -> None:
    refuse(guard, Secret("4711-secret"))

    for file in (tmp_path / "state").iterdir():
        assert b"4711" not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0

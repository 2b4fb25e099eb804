"""What the return values of C_Login mean, and what is refused before it is called."""

from ctypes import c_ulong

import pytest

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginBarred, LoginRefused, SessionLost, TokenUnavailable, UserMissing
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.log_in import (
    is_count_low,
    is_last_try,
    login_error,
    pin_bytes,
    require_possible_pin,
)
from xksproxy.hsm.pkcs11.structures import CK_TOKEN_INFO


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x0A0, LoginRefused),
        (0x0A1, LoginRefused),
        (0x0A2, LoginRefused),
        (0x0A3, LoginBarred),
        (0x0A4, LoginBarred),
        (0x102, UserMissing),
        (0x103, LoginBarred),
        (0x0B3, SessionLost),
        (0x190, SessionLost),
        (0x005, TokenUnavailable),
        (0x030, TokenUnavailable),
        (0x8000_0001, TokenUnavailable),
    ],
)
def test_a_return_value_of_c_login_has_one_meaning(code: int, kind: type[Exception]) -> None:
    error = login_error("token", code)

    assert type(error) is kind
    assert return_values.name(code) in str(error)


def test_a_process_that_is_logged_in_has_not_failed() -> None:
    assert login_error("token", 0x100) is None


def info(shortest: int = 4, longest: int = 255, flags: int = 0) -> CK_TOKEN_INFO:
    return CK_TOKEN_INFO(flags=flags, ulMinPinLen=shortest, ulMaxPinLen=longest)


@pytest.mark.parametrize(("shortest", "longest", "pin"), [(4, 255, b"123"), (4, 8, b"123456789")])
def test_a_pin_of_an_impossible_length_is_refused_before_the_log_in(shortest: int, longest: int, pin: bytes) -> None:
    with pytest.raises(LoginBarred, match="no log-in is tried"):
        require_possible_pin("token", info(shortest, longest), pin)


@pytest.mark.parametrize(("shortest", "longest"), [(4, 255), (0, 0), (8, 4), (0, c_ulong(-1).value), (3, 3)])
def test_bounds_that_allow_the_pin_or_make_no_sense_refuse_nothing(shortest: int, longest: int) -> None:
    require_possible_pin("token", info(shortest, longest), b"123" if longest == 3 else b"1234")


def test_a_locked_token_is_not_tried() -> None:
    with pytest.raises(LoginBarred, match="locked"):
        require_possible_pin("token", info(flags=0x4_0000), b"1234")


@pytest.mark.parametrize(("flags", "low", "last"), [(0, False, False), (0x1_0000, True, False), (0x2_0000, True, True)])
def test_the_flags_for_wrong_pins_are_read(flags: int, low: bool, last: bool) -> None:
    assert (is_count_low(info(flags=flags)), is_last_try(info(flags=flags))) == (low, last)


@pytest.mark.parametrize("pin", ["\udcff-secret", "x" * 4097])
def test_a_pin_that_is_no_text_or_too_long_is_refused_without_quoting_it(pin: str) -> None:
    with pytest.raises(LoginBarred, match="no log-in is tried") as raised:
        pin_bytes(Secret(pin))

    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None

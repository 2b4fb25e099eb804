"""C_Login: the meaning of its return values, and the checks before a log-in."""

from collections.abc import Mapping
from ctypes import c_ulong
from enum import Enum
from typing import Final

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import HsmError, LoginBarred, LoginRefused, SessionLost, TokenUnavailable, UserMissing
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.structures import CK_TOKEN_INFO

_LONGEST_PIN_BYTES: Final = 4096
_UNAVAILABLE: Final = c_ulong(-1).value
_PIN_COUNT_LOW: Final = 0x0001_0000
_PIN_FINAL_TRY: Final = 0x0002_0000
_PIN_LOCKED: Final = 0x0004_0000


class LoginOutcome(Enum):
    """The meaning of a return value of C_Login."""

    LOGGED_IN = "this process is already logged in to the token; the PIN was not checked"
    PIN_REFUSED = "the PIN is wrong"
    BARRED = "the token refuses every log-in until its owner acts; whether the PIN is right is unknown"
    NO_USER = "the token has no user PIN"
    SESSION_LOST = "the session is lost; whether the PIN is right is unknown"
    TRANSIENT = "the token or the device fails; whether the PIN is right is unknown"
    PERMANENT = "the token does not log in this way; whether the PIN is right is unknown"


OUTCOMES: Final[Mapping[int, LoginOutcome]] = {
    0x001: LoginOutcome.TRANSIENT,  # CKR_CANCEL
    0x002: LoginOutcome.TRANSIENT,  # CKR_HOST_MEMORY
    0x005: LoginOutcome.TRANSIENT,  # CKR_GENERAL_ERROR
    0x006: LoginOutcome.TRANSIENT,  # CKR_FUNCTION_FAILED
    0x007: LoginOutcome.PERMANENT,  # CKR_ARGUMENTS_BAD
    0x030: LoginOutcome.TRANSIENT,  # CKR_DEVICE_ERROR
    0x031: LoginOutcome.TRANSIENT,  # CKR_DEVICE_MEMORY
    0x032: LoginOutcome.TRANSIENT,  # CKR_DEVICE_REMOVED
    0x050: LoginOutcome.TRANSIENT,  # CKR_FUNCTION_CANCELED
    0x054: LoginOutcome.PERMANENT,  # CKR_FUNCTION_NOT_SUPPORTED
    0x090: LoginOutcome.SESSION_LOST,  # CKR_OPERATION_ACTIVE
    0x091: LoginOutcome.SESSION_LOST,  # CKR_OPERATION_NOT_INITIALIZED
    0x0A0: LoginOutcome.PIN_REFUSED,  # CKR_PIN_INCORRECT
    0x0A1: LoginOutcome.PIN_REFUSED,  # CKR_PIN_INVALID
    0x0A2: LoginOutcome.PIN_REFUSED,  # CKR_PIN_LEN_RANGE
    0x0A3: LoginOutcome.BARRED,  # CKR_PIN_EXPIRED
    0x0A4: LoginOutcome.BARRED,  # CKR_PIN_LOCKED
    0x0B0: LoginOutcome.SESSION_LOST,  # CKR_SESSION_CLOSED
    0x0B3: LoginOutcome.SESSION_LOST,  # CKR_SESSION_HANDLE_INVALID
    0x0B6: LoginOutcome.TRANSIENT,  # CKR_SESSION_EXISTS
    0x0B7: LoginOutcome.PERMANENT,  # CKR_SESSION_READ_ONLY_EXISTS
    0x0B8: LoginOutcome.PERMANENT,  # CKR_SESSION_READ_WRITE_SO_EXISTS
    0x0E0: LoginOutcome.TRANSIENT,  # CKR_TOKEN_NOT_PRESENT
    0x0E1: LoginOutcome.TRANSIENT,  # CKR_TOKEN_NOT_RECOGNIZED
    0x100: LoginOutcome.LOGGED_IN,  # CKR_USER_ALREADY_LOGGED_IN
    0x102: LoginOutcome.NO_USER,  # CKR_USER_PIN_NOT_INITIALIZED
    0x103: LoginOutcome.PERMANENT,  # CKR_USER_TYPE_INVALID
    0x104: LoginOutcome.PERMANENT,  # CKR_USER_ANOTHER_ALREADY_LOGGED_IN
    0x105: LoginOutcome.PERMANENT,  # CKR_USER_TOO_MANY_TYPES
    0x190: LoginOutcome.SESSION_LOST,  # CKR_CRYPTOKI_NOT_INITIALIZED
}
"""Every return value that PKCS#11 v2.40 section 5.6 and v3.0 list for C_Login. Others count as TRANSIENT."""


_FAILURES: Final[Mapping[LoginOutcome, tuple[type[HsmError], str]]] = {
    LoginOutcome.PIN_REFUSED: (LoginRefused, "token {token} refuses the PIN: {code}; it is not tried again"),
    LoginOutcome.BARRED: (LoginBarred, "token {token} refuses every log-in: {code}; its owner has to unlock it"),
    LoginOutcome.NO_USER: (UserMissing, "token {token} has no user PIN yet: {code}"),
    LoginOutcome.SESSION_LOST: (SessionLost, "the session for the log-in to token {token} is lost: C_Login: {code}"),
    LoginOutcome.TRANSIENT: (TokenUnavailable, "the log-in to token {token} failed: C_Login: {code}"),
    LoginOutcome.PERMANENT: (LoginBarred, "token {token} does not log in a user with a PIN: C_Login: {code}"),
}


def login_error(token: str, return_value: int) -> HsmError | None:
    """The exception for a return value of C_Login; None if the process is logged in."""
    outcome = OUTCOMES.get(return_value, LoginOutcome.TRANSIENT)
    if outcome is LoginOutcome.LOGGED_IN:
        return None
    kind, text = _FAILURES[outcome]
    return kind(text.format(token=repr(token), code=return_values.name(return_value)))


def pin_bytes(pin: Secret) -> bytes:
    """The PIN as bytes for C_Login.

    Raises:
        LoginBarred: it is not UTF-8, or longer than 4096 bytes. No message contains any part of it.
    """
    try:
        encoded = pin.reveal().encode()
    except UnicodeEncodeError:
        raise LoginBarred("the PIN is not valid UTF-8, so no log-in is tried") from None
    if len(encoded) > _LONGEST_PIN_BYTES:
        raise LoginBarred(f"the PIN has more than {_LONGEST_PIN_BYTES} bytes, so no log-in is tried")
    return encoded


def require_possible_pin(token: str, info: CK_TOKEN_INFO, pin: bytes) -> None:
    """Raise LoginBarred if the PIN is locked, or has a length that the token does not allow."""
    if info.flags & _PIN_LOCKED:
        raise LoginBarred(f"token {token!r} reports that its user PIN is locked; its owner has to unlock it")
    shortest, longest = info.ulMinPinLen, info.ulMaxPinLen
    if longest == _UNAVAILABLE or not longest > 0 or shortest > longest:
        return
    if not shortest <= len(pin) <= longest:
        raise LoginBarred(
            f"the PIN has {len(pin)} bytes, and token {token!r} says that its PINs have {shortest} to {longest};"
            " no log-in is tried"
        )


def is_last_try(info: CK_TOKEN_INFO) -> bool:
    """Whether the next wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY)."""
    return bool(info.flags & _PIN_FINAL_TRY)


def is_count_low(info: CK_TOKEN_INFO) -> bool:
    """Whether a wrong PIN was given since the last log-in (CKF_USER_PIN_COUNT_LOW)."""
    return bool(info.flags & (_PIN_COUNT_LOW | _PIN_FINAL_TRY))

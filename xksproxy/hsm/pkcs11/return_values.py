"""PKCS#11 return values: their names and their error classes."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

from xksproxy.hsm.pkcs11.quirks import Quirks

OK: Final = 0x000
FUNCTION_NOT_SUPPORTED: Final = 0x054
ATTRIBUTE_TYPE_INVALID: Final = 0x012
OBJECT_HANDLE_INVALID: Final = 0x082
SESSION_PARALLEL_NOT_SUPPORTED: Final = 0x0B4

NAMES: Final[Mapping[int, str]] = {
    0x000: "CKR_OK",
    0x001: "CKR_CANCEL",
    0x002: "CKR_HOST_MEMORY",
    0x003: "CKR_SLOT_ID_INVALID",
    0x005: "CKR_GENERAL_ERROR",
    0x006: "CKR_FUNCTION_FAILED",
    0x007: "CKR_ARGUMENTS_BAD",
    0x008: "CKR_NO_EVENT",
    0x00A: "CKR_CANT_LOCK",
    0x011: "CKR_ATTRIBUTE_SENSITIVE",
    0x012: "CKR_ATTRIBUTE_TYPE_INVALID",
    0x013: "CKR_ATTRIBUTE_VALUE_INVALID",
    0x020: "CKR_DATA_INVALID",
    0x021: "CKR_DATA_LEN_RANGE",
    0x030: "CKR_DEVICE_ERROR",
    0x031: "CKR_DEVICE_MEMORY",
    0x032: "CKR_DEVICE_REMOVED",
    0x040: "CKR_ENCRYPTED_DATA_INVALID",
    0x041: "CKR_ENCRYPTED_DATA_LEN_RANGE",
    0x042: "CKR_AEAD_DECRYPT_FAILED",
    0x050: "CKR_FUNCTION_CANCELED",
    0x054: "CKR_FUNCTION_NOT_SUPPORTED",
    0x060: "CKR_KEY_HANDLE_INVALID",
    0x062: "CKR_KEY_SIZE_RANGE",
    0x063: "CKR_KEY_TYPE_INCONSISTENT",
    0x068: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    0x070: "CKR_MECHANISM_INVALID",
    0x071: "CKR_MECHANISM_PARAM_INVALID",
    0x082: "CKR_OBJECT_HANDLE_INVALID",
    0x090: "CKR_OPERATION_ACTIVE",
    0x091: "CKR_OPERATION_NOT_INITIALIZED",
    0x0A0: "CKR_PIN_INCORRECT",
    0x0A1: "CKR_PIN_INVALID",
    0x0A2: "CKR_PIN_LEN_RANGE",
    0x0A3: "CKR_PIN_EXPIRED",
    0x0A4: "CKR_PIN_LOCKED",
    0x0B0: "CKR_SESSION_CLOSED",
    0x0B1: "CKR_SESSION_COUNT",
    0x0B3: "CKR_SESSION_HANDLE_INVALID",
    0x0B4: "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
    0x0B5: "CKR_SESSION_READ_ONLY",
    0x0B6: "CKR_SESSION_EXISTS",
    0x0B7: "CKR_SESSION_READ_ONLY_EXISTS",
    0x0B8: "CKR_SESSION_READ_WRITE_SO_EXISTS",
    0x0D0: "CKR_TEMPLATE_INCOMPLETE",
    0x0D1: "CKR_TEMPLATE_INCONSISTENT",
    0x0E0: "CKR_TOKEN_NOT_PRESENT",
    0x0E1: "CKR_TOKEN_NOT_RECOGNIZED",
    0x0E2: "CKR_TOKEN_WRITE_PROTECTED",
    0x100: "CKR_USER_ALREADY_LOGGED_IN",
    0x101: "CKR_USER_NOT_LOGGED_IN",
    0x102: "CKR_USER_PIN_NOT_INITIALIZED",
    0x103: "CKR_USER_TYPE_INVALID",
    0x104: "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    0x105: "CKR_USER_TOO_MANY_TYPES",
    0x120: "CKR_RANDOM_SEED_NOT_SUPPORTED",
    0x121: "CKR_RANDOM_NO_RNG",
    0x150: "CKR_BUFFER_TOO_SMALL",
    0x190: "CKR_CRYPTOKI_NOT_INITIALIZED",
    0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
    0x200: "CKR_FUNCTION_REJECTED",
    0x201: "CKR_TOKEN_RESOURCE_EXCEEDED",
}
"""The return values of PKCS#11 v3.0, section 3.7, that are used here."""

_BY_CLASS_NAME: Final = {name.removeprefix("CKR_").replace("_", "").lower(): name for name in NAMES.values()}

OBJECT_CANNOT_BE_READ: Final = frozenset({0x030, 0x031, 0x032, 0x060, 0x082, 0x090, 0x0B0, 0x0B3, 0x0E0, 0x101, 0x190})
"""Return values of C_GetAttributeValue after which it is useless to read single attributes."""


class ErrorClass(Enum):
    """What a return value asks the engine to do."""

    CIPHERTEXT_REJECTED = "the tag is wrong"
    AMBIGUOUS = "a wrong tag or a broken device: a self-test of the session decides"
    KEY_REFUSES_USE = "the key does not allow this use"
    HANDLE_STALE = "search for the key again"
    SESSION_LOST = "open another session"
    TOKEN_UNAVAILABLE = "the token cannot serve"  # noqa: S105 - a PKCS#11 token, not a password
    MECHANISM_REFUSED = "the module does not support AES-GCM, or not with these parameters"
    BUSY = "the HSM asks for fewer calls"


_EVERYWHERE: Final[Mapping[int, ErrorClass]] = {
    0x031: ErrorClass.BUSY,
    0x060: ErrorClass.HANDLE_STALE,
    0x062: ErrorClass.KEY_REFUSES_USE,
    0x063: ErrorClass.KEY_REFUSES_USE,
    0x068: ErrorClass.KEY_REFUSES_USE,
    0x070: ErrorClass.MECHANISM_REFUSED,
    0x071: ErrorClass.MECHANISM_REFUSED,
    0x082: ErrorClass.HANDLE_STALE,
    0x090: ErrorClass.SESSION_LOST,
    0x0B0: ErrorClass.SESSION_LOST,
    0x0B1: ErrorClass.BUSY,
    0x0B3: ErrorClass.SESSION_LOST,
}

_IN_DECRYPT: Final[Mapping[int, ErrorClass]] = {
    0x020: ErrorClass.CIPHERTEXT_REJECTED,
    0x021: ErrorClass.CIPHERTEXT_REJECTED,
    0x040: ErrorClass.CIPHERTEXT_REJECTED,
    0x041: ErrorClass.CIPHERTEXT_REJECTED,
    0x042: ErrorClass.CIPHERTEXT_REJECTED,
}
"""For C_Decrypt only. From C_DecryptInit, the same codes have other meanings."""


def name(return_value: int) -> str:
    """The name of a return value, or its number if it has no name (vendor-defined values)."""
    return NAMES.get(return_value, f"CK_RV 0x{return_value:08x}")


def name_of_class(class_name: str) -> str:
    """The name of the return value for an exception class of python-pkcs11, or the class name if there is none."""
    return _BY_CLASS_NAME.get(class_name.lower(), class_name)


def number(code: str) -> int:
    """The return value for a name such as ``CKR_DEVICE_ERROR`` or a number such as ``0x80000001``.

    Raises:
        ValueError: the text is neither.
    """
    for value, known in NAMES.items():
        if code == known:
            return value
    if re.fullmatch(r"0x[0-9A-Fa-f]{1,8}", code):
        return int(code, 16)
    raise ValueError(f"{code} is not the name of a PKCS#11 return value, nor a number that starts with 0x")


def error_class(quirks: Quirks, function: str, return_value: int) -> ErrorClass:
    """The error class of a return value other than CKR_OK of ``function``, by the module's quirks."""
    if return_value in quirks.busy:
        return ErrorClass.BUSY
    if function == "C_Decrypt":
        if return_value in quirks.rejected:
            return ErrorClass.CIPHERTEXT_REJECTED
        if return_value in quirks.ambiguous:
            return ErrorClass.AMBIGUOUS
        if return_value in _IN_DECRYPT:
            return _IN_DECRYPT[return_value]
    return _EVERYWHERE.get(return_value, ErrorClass.TOKEN_UNAVAILABLE)

"""Converts return values to the exceptions of their error classes."""

from collections.abc import Mapping
from typing import Final

from xksproxy.hsm.errors import (
    CiphertextRejected,
    HsmError,
    HsmThrottled,
    KeyRefusesUse,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.quirks import Quirks
from xksproxy.hsm.pkcs11.return_values import ErrorClass


class HandleStale(HsmError):
    """The handle is invalid, or belongs to another object now."""


class Ambiguous(HsmError):
    """The return value may mean a wrong tag or a broken device; a self-test decides."""


_EXCEPTIONS: Final[Mapping[ErrorClass, type[HsmError]]] = {
    ErrorClass.AMBIGUOUS: Ambiguous,
    ErrorClass.BUSY: HsmThrottled,
    ErrorClass.CIPHERTEXT_REJECTED: CiphertextRejected,
    ErrorClass.HANDLE_STALE: HandleStale,
    ErrorClass.KEY_REFUSES_USE: KeyRefusesUse,
    ErrorClass.MECHANISM_REFUSED: TokenUnavailable,
    ErrorClass.SESSION_LOST: SessionLost,
    ErrorClass.TOKEN_UNAVAILABLE: TokenUnavailable,
}


class ErrorsClassified:
    """A context manager that converts a CryptokiError to the exception of its error class, by the module's quirks.

    It has no state, so one object serves all blocks.
    """

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Convert a CryptokiError; other exceptions pass unchanged."""
        if isinstance(error, CryptokiError):
            kind = _EXCEPTIONS[return_values.error_class(self._quirks, error.function, error.return_value)]
            raise kind(str(error)) from error

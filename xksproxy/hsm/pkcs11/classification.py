"""Converts return values to the exceptions of their error classes."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

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

Result = TypeVar("Result")


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


def decrypt_confirmed(
    decrypt: Callable[[], Result],
    require_self_test: Callable[[Ambiguous], None],
    doubt: Callable[[], None] = lambda: None,
) -> Result:
    """Decrypt, and once more if it fails like a wrong tag. The device may have failed in passing, or have another key.

    ``doubt`` is called before the second attempt. ``require_self_test`` raises unless the session works.

    Raises:
        CiphertextRejected: the tag is wrong.
        HsmError: the HSM fails.
    """
    with suppress(Ambiguous, CiphertextRejected):
        return decrypt()
    doubt()
    try:
        return decrypt()
    except Ambiguous as error:
        require_self_test(error)
        raise CiphertextRejected(f"{error}, and the session passes its self-test") from error


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

"""From a return value to the exception of its consequence."""

from collections.abc import Mapping
from typing import Final

from xksproxy.hsm import ckr
from xksproxy.hsm.ckr import Consequence
from xksproxy.hsm.cryptoki import CryptokiError
from xksproxy.hsm.errors import (
    CiphertextRejected,
    HsmError,
    HsmThrottled,
    KeyRefusesUse,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.quirks import Quirks


class HandleStale(HsmError):
    """The handle means no object, or another one, by now."""


class Ambiguous(HsmError):
    """A wrong tag and a broken device look alike; only a self-test tells which it was."""


_EXCEPTIONS: Final[Mapping[Consequence, type[HsmError]]] = {
    Consequence.AMBIGUOUS: Ambiguous,
    Consequence.BUSY: HsmThrottled,
    Consequence.CIPHERTEXT_REJECTED: CiphertextRejected,
    Consequence.HANDLE_STALE: HandleStale,
    Consequence.KEY_REFUSES_USE: KeyRefusesUse,
    Consequence.MECHANISM_REFUSED: TokenUnavailable,
    Consequence.SESSION_LOST: SessionLost,
    Consequence.TOKEN_UNAVAILABLE: TokenUnavailable,
}


class FailuresJudged:
    """Raise, for a return value within the block, the exception of its consequence under the module's quirks.

    It holds nothing of a block, so one serves all of them.
    """

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Judge a CryptokiError; let all else pass."""
        if isinstance(error, CryptokiError):
            kind = _EXCEPTIONS[ckr.consequence(self._quirks, error.function, error.return_value)]
            raise kind(str(error)) from error

"""HSM failures as errors of the API: one table."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from xksproxy.hsm import errors as hsm
from xksproxy.spec import errors as xks

_TRANSLATION: Final[Mapping[type[hsm.HsmError], tuple[type[xks.XksError], str]]] = {
    hsm.KeyMissing: (xks.KeyNotFoundException, "The token has no key with the label of this external key"),
    hsm.KeyAmbiguous: (
        xks.InvalidStateException,
        "Several keys on the token carry the label of this external key; remove or rename all but one",
    ),
    hsm.EncryptionsSpent: (
        xks.InvalidStateException,
        "The key version has made as many encryptions as it may; make another one primary: xksproxy keys rotate",
    ),
    hsm.NotCounted: (
        xks.InternalException,
        "The encryption cannot be counted, so it is not made; check the state directory of the proxy",
    ),
    hsm.KeyRefusesUse: (
        xks.InvalidKeyUsageException,
        "The external key does not allow this operation: on the token it must be a 256-bit AES key that permits it",
    ),
    hsm.CiphertextRejected: (
        xks.InvalidCiphertextException,
        "The HSM refuses the ciphertext: ciphertext, metadata, IV, AAD or tag is not what this key encrypted",
    ),
    hsm.CiphertextWrong: (
        xks.InternalException,
        "What the HSM encrypted does not decrypt to what it was given; check the HSM and the proxy's log",
    ),
    hsm.KeyDiffers: (
        xks.InternalException,
        "The HSMs hold different keys under the label of this external key; check the proxy's log",
    ),
    hsm.DataTooLarge: (xks.UnsupportedOperationException, "The HSM does not take as many bytes in one call"),
    hsm.HsmBusy: (xks.ThrottlingException, "All HSM sessions are busy; the request could not be served in time"),
    hsm.DeadlinePassed: (xks.DependencyTimeoutException, "The HSM did not answer in time"),
    hsm.SessionLost: (xks.InternalException, "The HSM session was lost; check the HSM and its connection"),
    hsm.LoginRefused: (xks.InternalException, "The HSM refuses the proxy's log-in; check the PIN in its configuration"),
    hsm.TokenUnavailable: (xks.InternalException, "The HSM is unavailable; check the HSM and the proxy's log"),
}


class _Translation:
    """The context manager of :func:`hsm_errors_translated`; a generator would cost each request more."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, hsm.HsmError):
            kind = next((kind for kind in type(error).__mro__ if kind in _TRANSLATION), hsm.TokenUnavailable)
            name, message = _TRANSLATION[kind]
            raise name(message, detail=str(error)) from error


_TRANSLATED: Final = _Translation()


def hsm_errors_translated() -> AbstractContextManager[None]:
    """Raise the API's error for an HsmError; what the HSM said goes into its detail, for the log alone."""
    return _TRANSLATED

"""The table that translates HSM errors to errors of the XKS API."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from xksproxy.hsm import errors as hsm
from xksproxy.spec import errors as xks

_TRANSLATION: Final[Mapping[type[hsm.HsmError], tuple[type[xks.XksError], str]]] = {
    hsm.KeyMissing: (xks.KeyNotFoundException, "The token has no key with the label or CKA_ID of this external key"),
    hsm.KeyAmbiguous: (
        xks.InvalidStateException,
        "Several keys on the token match this external key; add object_id to its configuration",
    ),
    hsm.EncryptionsSpent: (
        xks.InvalidStateException,
        "The key version has reached its maximum number of encryptions; rotate the key: xksproxy keys rotate",
    ),
    hsm.NotCounted: (
        xks.InternalException,
        "The proxy cannot count the encryption, so it refuses it; check the state directory of the proxy",
    ),
    hsm.KeyRefusesUse: (
        xks.InvalidKeyUsageException,
        "The external key does not allow this operation: on the token it must be a 256-bit AES key that permits it",
    ),
    hsm.CiphertextRejected: (
        xks.InvalidCiphertextException,
        "The HSM refuses the ciphertext: ciphertext, metadata, IV, AAD or tag was changed, or is of another key",
    ),
    hsm.CiphertextWrong: (
        xks.InternalException,
        "The HSM's ciphertext does not decrypt to the plaintext; check the HSM and the proxy's log",
    ),
    hsm.KeyDiffers: (
        xks.InternalException,
        "An HSM holds another key than was first used under the label of this external key; check the proxy's log",
    ),
    hsm.DataTooLarge: (xks.UnsupportedOperationException, "The data is larger than the HSM accepts in one call"),
    hsm.TooManySearches: (
        xks.ThrottlingException,
        "Requests name too many keys that the proxy has not found on the token",
    ),
    hsm.HsmBusy: (xks.ThrottlingException, "All HSM sessions are busy; the request could not be served in time"),
    hsm.DeadlinePassed: (xks.DependencyTimeoutException, "The HSM did not answer in time"),
    hsm.SessionLost: (xks.InternalException, "The HSM session was lost; check the HSM and its connection"),
    hsm.RecordsUnusable: (
        xks.InternalException,
        "The proxy cannot read which key is the right one; check the state directory of the proxy",
    ),
    hsm.LoginRefused: (xks.InternalException, "The HSM refuses the proxy's log-in; check the PIN in its configuration"),
    hsm.TokenUnavailable: (xks.InternalException, "The HSM is unavailable; check the HSM and the proxy's log"),
}


class _Translation:
    """The context manager of :func:`hsm_errors_translated`. A class costs each request less than a generator."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, hsm.HsmError):
            kind = next((kind for kind in type(error).__mro__ if kind in _TRANSLATION), hsm.TokenUnavailable)
            name, message = _TRANSLATION[kind]
            raise name(message, detail=str(error)) from error


_TRANSLATED: Final = _Translation()


def hsm_errors_translated() -> AbstractContextManager[None]:
    """Raise an XksError in place of an HsmError. The text of the HsmError becomes the detail, for the log alone."""
    return _TRANSLATED

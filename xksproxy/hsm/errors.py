"""What can go wrong at an HSM, sorted by error_class."""

from typing import ClassVar


class HsmError(Exception):
    """An HSM call that did not give a result. ``discards_session``: the session it ran on must not be used again."""

    discards_session: ClassVar[bool] = False


class KeyMissing(HsmError):
    """The token is present and logged in, and has no key of this label."""


class KeyAmbiguous(HsmError):
    """Several keys on the token carry the label, so none of them can be meant (fail closed)."""


class KeyDiffers(HsmError):
    """The key of this label is another one here than on the HSM that is believed."""


class KeyRefusesUse(HsmError):
    """The key is not an AES-256 secret key, or its attributes forbid the operation."""


class EncryptionsSpent(HsmError):
    """The key has made as many encryptions as it may; another version of it has to take over."""


class NotCounted(HsmError):
    """An encryption that cannot be counted is not made."""


class CiphertextRejected(HsmError):
    """The tag does not fit: ciphertext, IV, AAD, tag or key are not those of the encryption."""


class SessionLost(HsmError):
    """The session cannot be used any more; another one may do."""

    discards_session = True


class TokenUnavailable(HsmError):
    """The token cannot serve: absent, not logged in, failing, or its module could not be loaded."""

    discards_session = True


class LoginRefused(TokenUnavailable):
    """The token refused the PIN. It is not tried again, because tokens lock after a few wrong ones."""


class LoginBarred(TokenUnavailable):
    """The token lets nobody in: the PIN is locked or has expired. Whether the one given is right is not known."""


class UserMissing(LoginBarred):
    """The token has no user yet, so that no PIN would do."""


class ModuleStuck(TokenUnavailable):
    """A call does not return, so its module can only be left behind, with the process."""


class SettingsMismatch(TokenUnavailable):
    """The token behaves otherwise than its settings say, so it must not serve."""


class CiphertextWrong(TokenUnavailable):
    """What the HSM encrypted does not decrypt to what it was given."""


class DataTooLarge(HsmError):
    """More bytes than the module takes in one call."""


class HsmBusy(HsmError):
    """No session came free in time, or the HSM asks to slow down."""


class HsmThrottled(HsmBusy):
    """The HSM asks to slow down. Whether it ended the operation is not known, so its session goes."""

    discards_session = True


class DeadlinePassed(HsmError):
    """The HSM did not answer in time."""

"""The errors of HSM calls."""

from typing import ClassVar


class HsmError(Exception):
    """An HSM call failed. ``discards_session``: its session must be closed and not used again."""

    discards_session: ClassVar[bool] = False


class KeyMissing(HsmError):
    """The token is present and logged in, and has no key with this label."""


class KeyAmbiguous(HsmError):
    """Several keys on the token have the label; none of them is used (fail closed)."""


class KeyDiffers(HsmError):
    """The key with this label does not match the fingerprint on record."""


class KeyRefusesUse(HsmError):
    """The key is not an AES-256 secret key, or its attributes forbid the operation."""


class EncryptionsSpent(HsmError):
    """The key has made its maximum number of encryptions. Only another version can encrypt."""


class NotCounted(HsmError):
    """The encryption could not be counted, so it was not made."""


class CiphertextRejected(HsmError):
    """The tag is wrong: ciphertext, IV, AAD, tag or key are not those of the encryption."""


class SessionLost(HsmError):
    """The session cannot be used any more; another session may work."""

    discards_session = True


class TokenUnavailable(HsmError):
    """The token cannot serve: it is absent, not logged in, or failing, or its module could not be loaded."""

    discards_session = True


class RecordsUnusable(TokenUnavailable):
    """The record of key fingerprints cannot be used, so it is not known whether the key is the right one."""


class LoginRefused(TokenUnavailable):
    """The token refused the PIN. It is not tried again, because tokens lock after a few wrong ones."""


class LoginBarred(TokenUnavailable):
    """The token refuses every log-in: the PIN is locked or has expired. It is not known whether the PIN is right."""


class UserMissing(LoginBarred):
    """The token has no user PIN yet."""


class ModuleStuck(TokenUnavailable):
    """A call has not returned, so the module cannot be initialised again now."""


class NoRoomForSession(TokenUnavailable):
    """The token opens no further session: all its sessions are open, or its memory is full."""


class GeneratorFailed(TokenUnavailable):
    """The HSM's random generator or its IVs repeat themselves, so it must not encrypt."""


class SettingsMismatch(TokenUnavailable):
    """The module does not behave as its settings say, so the HSM must not serve."""


class CiphertextWrong(TokenUnavailable):
    """A ciphertext that the HSM has just made does not decrypt to the plaintext."""


class DataTooLarge(HsmError):
    """The data is longer than the module accepts in one call."""


class HsmBusy(HsmError):
    """No session became free in time, or the HSM asks for fewer calls."""


class TooManySearches(HsmBusy):
    """Requests name so many unknown keys that the time for searches on the HSM is used up."""


class HsmThrottled(HsmBusy):
    """The HSM asks for fewer calls. The operation may still be active, so the session is closed."""

    discards_session = True


class DeadlinePassed(HsmError):
    """The HSM did not answer in time."""

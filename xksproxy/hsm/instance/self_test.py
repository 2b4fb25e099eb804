"""Tests of a session under a session key: the session works, and the module behaves as its settings say."""

from collections.abc import Callable
from typing import Any, Final

from xksproxy.hsm.errors import SessionLost, SettingsMismatch, TokenUnavailable
from xksproxy.hsm.instance.gcm_calls import GcmCalls
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.calls_inside import CallsInside
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key
from xksproxy.hsm.pkcs11.quirks import Quirks
from xksproxy.hsm.pkcs11.return_values import ErrorClass

_AES_256_BITS: Final = 256
_TEXT: Final = b"xksproxy self-test"
_DRAWN_BYTES: Final = 48
_AAD: Final = b"xksproxy"
_REFUSALS: Final = 3
"""An answer to a wrong tag that the settings do not name counts if it comes so often."""
_POINTS_AT_SETTINGS: Final = frozenset(
    {ErrorClass.MECHANISM_REFUSED, ErrorClass.CIPHERTEXT_REJECTED, ErrorClass.AMBIGUOUS}
)


class SelfTest:
    """Tests of one session. Each first checks that the token is present: sessions of an absent token may still work.

    They use a session key, so that no customer key is touched (R-HLTH-3). It is destroyed with the session.
    """

    def __init__(
        self,
        binding_session: Any,
        gcm_calls: GcmCalls,
        quirks: Quirks,
        calls_inside: CallsInside,
        *,
        require_present: Callable[[], None],
    ) -> None:
        self._calls_inside = calls_inside
        self._binding_session = binding_session
        self._gcm_calls = gcm_calls
        self._quirks = quirks
        self._require_present = require_present
        self._key_handle: int | None = None

    def run(self) -> None:
        """Encrypt and decrypt.

        Raises:
            SessionLost: the session is gone.
            TokenUnavailable: the token fails, or decrypts to other data.
        """
        self._require_present()
        key = self._key()
        try:
            sealed = self._gcm_calls.encrypt(key, _TEXT, _AAD)
            decrypted = self._gcm_calls.decrypt(key, sealed, _AAD)
        except CryptokiError as error:
            lost = self._class_of(error) is ErrorClass.SESSION_LOST
            raise (SessionLost if lost else TokenUnavailable)(f"self-test failed: {error}") from error
        if decrypted != _TEXT:
            raise TokenUnavailable("self-test failed: the decrypted data differs from the plaintext")

    def check_settings(self) -> None:
        """Check the quirks: two encryptions have different IVs, both outputs decrypt, a wrong tag is refused.

        With wrong settings, a module could reuse an IV or accept a changed ciphertext without any error.

        Raises:
            SettingsMismatch: the module does not behave as its settings say.
            GeneratorFailed: its random generator repeats itself.
            TokenUnavailable: the token fails.
        """
        self._require_present()
        key = self._key()
        try:
            self._check_generator()
            first, second = (self._gcm_calls.encrypt(key, _TEXT, _AAD) for _ in range(2))
            decrypted = {self._gcm_calls.decrypt(key, sealed, _AAD) for sealed in (first, second)}
        except CryptokiError as error:
            self._require_present()
            if self._class_of(error) in _POINTS_AT_SETTINGS:
                raise SettingsMismatch(f"{error}; check the settings iv and iv_source") from error
            raise TokenUnavailable(f"the test of the settings failed: {error}") from error
        if first.iv == second.iv or first.ciphertext == second.ciphertext:
            raise SettingsMismatch("two encryptions had the same IV or the same output; check the setting iv")
        if decrypted != {_TEXT}:
            raise SettingsMismatch("a ciphertext did not decrypt to what was encrypted; check the setting iv")
        self._check_refusal(key, first)

    def _check_generator(self) -> None:
        if self._quirks.iv == "caller" and self._quirks.iv_source == "token":
            for _ in range(2):
                self._gcm_calls.draw(_DRAWN_BYTES)

    def _check_refusal(self, key: int, sealed: Sealed) -> None:
        """Let a wrong tag be refused. Another error must come each time: a device may also fail in passing."""
        changed = Sealed(sealed.iv, sealed.ciphertext, bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:])
        errors: list[CryptokiError] = []
        while len(errors) < _REFUSALS:
            try:
                self._gcm_calls.decrypt(key, changed, _AAD)
            except CryptokiError as error:
                if self._class_of(error) in (ErrorClass.CIPHERTEXT_REJECTED, ErrorClass.AMBIGUOUS):
                    return
                errors.append(error)
            else:
                raise SettingsMismatch("a ciphertext with a wrong tag was accepted")
        if ErrorClass.SESSION_LOST in map(self._class_of, errors):
            raise TokenUnavailable(f"the test of the settings failed: {errors[-1]}")
        raise SettingsMismatch(
            f"a wrong tag is answered with {errors[-1]}, which the settings do not name; add it to ambiguous_codes"
        )

    def _class_of(self, error: CryptokiError) -> ErrorClass:
        return return_values.error_class(self._quirks, error.function, error.return_value)

    def _key(self) -> int:
        if self._key_handle is None:
            with self._calls_inside.entered("C_GenerateKey"):
                self._key_handle = generate_aes_key(
                    self._binding_session, _AES_256_BITS, name=None, encrypt=True, decrypt=True
                )
        return self._key_handle

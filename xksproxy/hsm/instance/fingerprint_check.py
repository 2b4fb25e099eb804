"""Comparison of a key with the fingerprint on record."""

from collections.abc import Callable

from xksproxy.hsm.errors import CiphertextRejected, KeyDiffers
from xksproxy.hsm.instance.gcm_calls import GcmCalls
from xksproxy.hsm.instance.key_table import KnownKey
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.hsm.pkcs11.classification import Ambiguous, ErrorsClassified, decrypt_confirmed
from xksproxy.hsm.pkcs11.quirks import Quirks


class FingerprintCheck:
    """Compares keys of one session. ``require_self_test`` raises unless the session works."""

    def __init__(self, gcm_calls: GcmCalls, quirks: Quirks, *, require_self_test: Callable[[Ambiguous], None]) -> None:
        self._gcm_calls = gcm_calls
        self._errors_classified = ErrorsClassified(quirks)
        self._require_self_test = require_self_test

    def require(self, key: KnownKey, fingerprint: KeyFingerprint) -> None:
        """Compare the check values, or decrypt the canary where one of the two has no check value.

        Raises:
            KeyDiffers: it is another key, or there is nothing to compare.
            HsmError: the HSM fails.
        """
        check_value = key.description.check_value
        if check_value is not None and fingerprint.check_value is not None:
            if check_value != fingerprint.check_value:
                raise KeyDiffers("its check value is not that of the key that was first used under the name")
        elif fingerprint.canary is None or not key.description.can_decrypt:
            raise KeyDiffers(
                "it has no check value and no canary can be decrypted, so it may be another key than on other HSMs"
            )
        elif key.verified_by != fingerprint.canary:
            self._decrypt_canary(key.handle, fingerprint.canary)
            key.verified_by = fingerprint.canary

    def matches(self, key: KnownKey, fingerprint: KeyFingerprint) -> bool:
        """Whether the key has the fingerprint. False if that cannot be determined.

        Raises:
            HsmError: the HSM fails.
        """
        try:
            self.require(key, fingerprint)
        except KeyDiffers:
            return False
        return True

    def _decrypt_canary(self, key: int, canary: Sealed) -> None:
        def decrypt() -> bytes:
            with self._errors_classified:
                return self._gcm_calls.decrypt(key, canary, b"")

        try:
            decrypt_confirmed(decrypt, self._require_self_test)
        except CiphertextRejected as error:
            raise KeyDiffers("it does not decrypt what the key that was first used under the name encrypted") from error

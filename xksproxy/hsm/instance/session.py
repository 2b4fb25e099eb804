"""One PKCS#11 session: AES-256-GCM under keys by name, which is a label or the text of another ObjectName."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm._native import NativeSession
from xksproxy.hsm.errors import (
    EncryptionsSpent,
    HsmError,
    KeyAmbiguous,
    KeyRefusesUse,
    NotCounted,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.instance.fingerprint_check import FingerprintCheck
from xksproxy.hsm.instance.fingerprint_maker import FingerprintMaker
from xksproxy.hsm.instance.gcm_calls import GcmCalls
from xksproxy.hsm.instance.key_table import KeyTable
from xksproxy.hsm.instance.openssl import sha256_address
from xksproxy.hsm.instance.self_test import SelfTest
from xksproxy.hsm.keys import KeyDescription, KeyFingerprint, Sealed
from xksproxy.hsm.pkcs11.classification import Ambiguous, ErrorsClassified, decrypt_confirmed
from xksproxy.hsm.pkcs11.connection import Connection, close_session
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.data_objects import DataObjects
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key
from xksproxy.hsm.pkcs11.module_lock import ModuleLock
from xksproxy.state.reservation import LimitReached
from xksproxy.state.state_file import StateUnusable

_USER_STATES: Final = frozenset({1, 3})

Result = TypeVar("Result")


class HsmSession:
    """A session and the keys that were found in it. It belongs to one thread.

    Every method raises HsmError. After an error whose ``discards_session`` is true, close the session.
    """

    def __init__(self, connection: Connection, binding_session: Any = None) -> None:
        """Open a session, or use an open ``binding_session``. The calling thread must be inside the module lock."""
        self._cryptoki = connection.cryptoki
        self._connection = connection
        self._quirks = connection.quirks
        self._errors_classified = ErrorsClassified(connection.quirks)
        self._session = connection.open_session() if binding_session is None else binding_session
        self._handle: int = self._session.handle
        self.native_session = NativeSession(
            connection.module_lock,
            self._handle,
            self._cryptoki.gcm_functions,
            self._quirks.maximum_data_bytes or 0,
            self._quirks.iv == "written-back",
            sha256_address(),
        )
        """Makes calls without the interpreter, under the keys of :meth:`allow_native`."""
        self._keys = KeyTable(
            self._cryptoki,
            self._handle,
            self._quirks,
            self.native_session,
            hints=lambda: connection.key_hints,
            require_token=self._require_token,
        )
        self._gcm_calls = GcmCalls(
            self._cryptoki, self._handle, self._quirks, self.native_session, connection.generator_check
        )
        self._self_test = SelfTest(
            self._session,
            self._gcm_calls,
            self._quirks,
            self._cryptoki.calls_inside,
            require_present=self._require_present,
        )
        self._fingerprint_check = FingerprintCheck(
            self._gcm_calls, self._quirks, require_self_test=self.require_self_test
        )
        self._fingerprint_maker = FingerprintMaker(
            self._keys,
            self._fingerprint_check,
            connection.fingerprint_index,
            connection.usage,
            encrypt=self.encrypt,
            decrypt=self.decrypt,
            count=lambda label: self._count(label, None),
        )
        self._native_failure: CryptokiError | None = None

    @property
    def module_lock(self) -> ModuleLock:
        """The lock of its module."""
        return self._connection.module_lock

    @property
    def alive(self) -> bool:
        """False if the module was initialised again after the session was opened: then every handle is invalid."""
        return self._connection.alive

    @property
    def binding(self) -> Any:
        """The session as python-pkcs11 knows it."""
        return self._session

    def logged_in(self) -> bool:
        """Whether the session can see private objects. True if the token needs no log-in."""
        with self._errors_classified:
            state = self._cryptoki.session_state(self._handle)
        return not self._connection.needs_login or state in _USER_STATES

    def close(self) -> None:
        """Close the session on the token."""
        with self._cryptoki.calls_inside.entered("C_CloseSession"):
            close_session(self._session)

    def take_call_seconds(self) -> float | None:
        """Return and forget the seconds that the last GCM call was inside the module; None if there was no call."""
        return self._gcm_calls.take_seconds()

    def raise_next(self, failure: tuple[str, int] | None) -> None:
        """Make the next encryption or decryption fail like the native session: with this function and return value."""
        self._native_failure = None if failure is None else CryptokiError(*failure)

    def allow_native(self, label: str, number: int, fingerprint: KeyFingerprint | None) -> None:
        """Allow native calls with this fingerprint under a key that was just used. ``number`` identifies the key."""
        self._keys.allow_key(label, number, fingerprint, encrypt=self._quirks.iv != "appended")

    def encrypt(
        self,
        label: str,
        plaintext: bytes,
        aad: bytes,
        fingerprint: KeyFingerprint | None = None,
        maximum: int | None = None,
        *,
        counted: bool = False,
    ) -> Sealed:
        """Encrypt with AES-256-GCM under the key of a label. The key must match ``fingerprint`` if that is given.

        Each attempt has a new IV, and is counted before it is made, up to ``maximum`` if that is given. ``counted``:
        the first attempt is already counted.

        Raises:
            EncryptionsSpent, NotCounted
            KeyMissing, KeyAmbiguous, KeyDiffers, KeyRefusesUse, DataTooLarge, SessionLost, TokenUnavailable, HsmBusy
        """

        def count_and_encrypt(key: int) -> Sealed:
            nonlocal counted
            already, counted = counted, False
            if not already:
                self._count(label, maximum)
            return self._gcm_calls.encrypt(key, plaintext, aad)

        return self._with_key(label, _can_encrypt, fingerprint, count_and_encrypt)

    def decrypt(self, label: str, sealed: Sealed, aad: bytes, fingerprint: KeyFingerprint | None = None) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            CiphertextRejected, and what :meth:`encrypt` raises
        """

        def decrypt() -> bytes:
            return self._with_key(
                label, _can_decrypt, fingerprint, lambda key: self._gcm_calls.decrypt(key, sealed, aad)
            )

        return decrypt_confirmed(decrypt, self.require_self_test, lambda: self._keys.doubt(label))

    def describe_key(self, label: str) -> KeyDescription:
        """Type, size and usages of a key, read from the token now.

        Raises:
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable
        """
        return self._keys.retry_stale(label, lambda: self._keys.search_again(label).description)

    def read_key(self, label: str) -> KeyDescription:
        """The same without a search if the key was found before. The next listing notices a second key of the label."""
        return self._keys.retry_stale(label, lambda: self._keys.find(label, known_for=0).description)

    def make_fingerprint(self, label: str) -> KeyFingerprint:
        """Make a fingerprint of the key that is on this token now.

        If the key is on record under another name, in any key store, its encryptions are counted under that name from
        now on.

        Raises:
            NotCounted, KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable, HsmBusy
        """
        return self._fingerprint_maker.make(label)

    def verify_key(self, label: str, fingerprint: KeyFingerprint) -> None:
        """Search for the key again and compare it with a fingerprint.

        Raises:
            KeyDiffers: it is another key, or there is nothing to compare.
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable, HsmBusy
        """
        self._keys.retry_stale(
            label, lambda: self._fingerprint_check.require(self._keys.search_again(label), fingerprint)
        )

    def list_keys(self) -> list[KeyDescription]:
        """All secret and private keys of the token, in its order. Other sessions use the handles as hints."""
        found = self._keys.everything()
        times = Counter(name for _, description in found for name in description.names)
        self._connection.key_hints = {
            name: handle for handle, description in found for name in description.names if times[name] == 1
        }
        return [description for _, description in found]

    def create_key(
        self,
        label: str,
        *,
        bits: int,
        encrypt: bool,
        decrypt: bool,
        extractable: bool = False,
        default_label: str | None = None,
    ) -> None:
        """Make an AES key on the token. If it is ``extractable``, it can be wrapped; see :func:`~.key_copy.copy_key`.

        If ``label`` names it by its CKA_ID alone, it gets the default label.

        Raises:
            KeyAmbiguous: a key of this name or label exists already; nothing was made.
            TokenUnavailable: the token makes none.
        """
        name = ObjectName.parse(label)
        name = ObjectName(name.label or default_label, name.object_id)
        for taken in {label, str(ObjectName(name.label)) if name.label else label}:
            if self._keys.search(taken):
                raise KeyAmbiguous(f"the token already has a key of the name {taken!r}")
        generate_aes_key(self._session, bits, name=name, encrypt=encrypt, decrypt=decrypt, extractable=extractable)

    def data_objects(self, label: str) -> DataObjects:
        """The data objects with a label (HsmError if this kind of module keeps none)."""
        if not self._quirks.data_objects:
            raise HsmError("this kind of module keeps no data objects (CKO_DATA)")
        return DataObjects(self._cryptoki, self._handle, label, private=self._connection.needs_login)

    def self_test(self) -> None:
        """Encrypt and decrypt under a session key; see :class:`SelfTest`.

        Raises:
            SessionLost, TokenUnavailable
        """
        self._self_test.run()

    def test_settings(self) -> None:
        """Check that the module behaves as its settings say; see :class:`SelfTest`.

        Raises:
            SettingsMismatch, SessionLost, TokenUnavailable
        """
        self._self_test.check_settings()

    def require_self_test(self, failure: Ambiguous) -> None:
        """Raise TokenUnavailable if the self-test fails. If it succeeds, the ciphertext caused the ``failure``."""
        try:
            self._self_test.run()
        except SessionLost as error:
            raise TokenUnavailable(f"{failure}, and then {error}") from error

    def _count(self, label: str, maximum: int | None) -> None:
        try:
            self._connection.usage.count_encryption(label, maximum)
        except LimitReached as error:
            raise EncryptionsSpent(f"the key has made the {maximum} encryptions it may on this machine") from error
        except StateUnusable as error:
            raise NotCounted(f"the encryption cannot be counted: {error}") from error

    def _with_key(
        self,
        label: str,
        permits: Callable[[KeyDescription], bool],
        fingerprint: KeyFingerprint | None,
        operation: Callable[[int], Result],
    ) -> Result:
        """Run ``operation`` with the handle of a key, if the key permits it and matches the fingerprint."""

        def attempt() -> Result:
            with self._errors_classified:
                self._raise_native_failure()
            key = self._keys.usable(label, permits)
            if fingerprint is not None:
                self._fingerprint_check.require(key, fingerprint)
            with self._errors_classified:
                return operation(key.handle)

        try:
            return self._keys.retry_stale(label, attempt)
        except KeyRefusesUse:  # perhaps the handle belongs to another object now
            self._keys.doubt(label)
            raise

    def _require_token(self) -> None:
        """Require that the token is present and logged in: otherwise a search finds nothing, as for a missing key."""
        self._require_present()
        if not self.logged_in():
            raise SessionLost("the session is not logged in any more")

    def _require_present(self) -> None:
        with self._errors_classified:
            self._connection.require_present()

    def _raise_native_failure(self) -> None:
        failure, self._native_failure = self._native_failure, None
        if failure is not None:
            raise failure


def _can_encrypt(description: KeyDescription) -> bool:
    return description.can_encrypt


def _can_decrypt(description: KeyDescription) -> bool:
    return description.can_decrypt

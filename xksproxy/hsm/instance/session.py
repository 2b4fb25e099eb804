"""One PKCS#11 session: AES-256-GCM under keys found by label, and the tests by which it proves itself."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from xksproxy.hsm._native import NativeSession
from xksproxy.hsm.errors import (
    CiphertextRejected,
    DataTooLarge,
    EncryptionsSpent,
    KeyAmbiguous,
    KeyDiffers,
    NotCounted,
    SessionLost,
    SettingsMismatch,
    TokenUnavailable,
)
from xksproxy.hsm.instance.key_table import KeyTable, KnownKey
from xksproxy.hsm.keys import KeyDescription, KeyFingerprint, Sealed
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.classification import Ambiguous, ErrorsClassified
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key
from xksproxy.hsm.pkcs11.module import Connection, close_session
from xksproxy.hsm.pkcs11.return_values import ErrorClass
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import LimitReached

_IV_BYTES: Final = 12
_APPENDED_IV_BYTES: Final = 16
_IV_BLOCK: Final = 64
_TAG_BYTES: Final = 16
_AES_256_BITS: Final = 256
_USER_STATES: Final = frozenset({1, 3})
_CANARY_BYTES: Final = 16
_TEST_TEXT: Final = b"xksproxy self-test"
_TEST_AAD: Final = b"xksproxy"
_POINTS_AT_SETTINGS: Final = frozenset(
    {ErrorClass.MECHANISM_REFUSED, ErrorClass.CIPHERTEXT_REJECTED, ErrorClass.AMBIGUOUS}
)

Result = TypeVar("Result")


class HsmSession:
    """A session, the keys known in it, and IVs drawn ahead. It belongs to one thread.

    Every method raises an :class:`HsmError`; after one whose ``discards_session`` is set, close the session.
    """

    def __init__(self, connection: Connection) -> None:
        self._cryptoki = connection.cryptoki
        self._connection = connection
        self._quirks = connection.quirks
        self._errors_classified = ErrorsClassified(connection.quirks)
        self._session = connection.open_session()
        self._handle: int = self._session.handle
        self.native_session = NativeSession(
            connection.module_lock,
            self._handle,
            self._cryptoki.gcm_functions,
            self._quirks.maximum_data_bytes or 0,
            self._quirks.iv == "written-back",
        )
        """Makes, without the interpreter, calls under keys that it was let use."""
        self._keys = KeyTable(
            self._cryptoki,
            self._handle,
            self._quirks,
            self.native_session,
            hints=lambda: connection.key_hints,
            require_token=self._require_token,
        )
        self._native_failure: CryptokiError | None = None
        self._test_key: int | None = None

    @property
    def alive(self) -> bool:
        """Whether the module has not been initialised again since; if it has, every handle is void."""
        return self._connection.alive

    @property
    def binding(self) -> Any:
        """The session as python-pkcs11 knows it."""
        return self._session

    def logged_in(self) -> bool:
        """Whether private objects can be seen, where that needs a log-in."""
        with self._errors_classified:
            state = self._cryptoki.session_state(self._handle)
        return not self._connection.needs_login or state in _USER_STATES

    def close(self) -> None:
        """Give the session back to the token."""
        close_session(self._session)

    def raise_next(self, failure: tuple[str, int] | None) -> None:
        """Let the next encryption or decryption begin as it ended at the native_session: with a function and its return value."""
        self._native_failure = None if failure is None else CryptokiError(*failure)

    def allow_native(self, label: str, number: int, fingerprint: KeyFingerprint | None) -> None:
        """Let the native_session make calls with this fingerprint under the key of a label, which was just used, by its number."""
        self._keys.arm(label, number, fingerprint, encrypt=self._quirks.iv != "appended")

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
        """AES-256-GCM under the key of a label, which must fit ``fingerprint`` if one is given.

        An IV serves one attempt, and each attempt is counted before it is made, up to ``maximum`` if that is given;
        ``counted``: the first one is already.

        Raises:
            EncryptionsSpent, NotCounted
            KeyMissing, KeyAmbiguous, KeyDiffers, KeyRefusesUse, DataTooLarge, SessionLost, TokenUnavailable, HsmBusy
        """

        def seal(key: int) -> Sealed:
            nonlocal counted
            paid, counted = counted, False
            if not paid:
                self._count(label, maximum)
            return self._seal(key, plaintext, aad)

        return self._with_key(label, _can_encrypt, fingerprint, seal)

    def decrypt(self, label: str, sealed: Sealed, aad: bytes, fingerprint: KeyFingerprint | None = None) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            CiphertextRejected, and what :meth:`encrypt` raises
        """
        try:
            return self._with_key(label, _can_decrypt, fingerprint, lambda key: self._open(key, sealed, aad))
        except Ambiguous as error:
            self._require_self_test(error)
            raise CiphertextRejected(f"{error}, and the session passes its self-test") from error

    def describe_key(self, label: str) -> KeyDescription:
        """Type, size and usages of a key, read from the token now.

        Raises:
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable
        """
        return self._keys.retry_stale(label, lambda: self._keys.find_anew(label).description)

    def make_fingerprint(self, label: str) -> KeyFingerprint:
        """A fingerprint of the key as it is on this token now.

        Raises:
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable, HsmBusy
        """
        description = self.describe_key(label)
        both = description.is_aes_256 and description.can_encrypt and description.can_decrypt
        canary = self.encrypt(label, os.urandom(_CANARY_BYTES), b"") if both else None
        return KeyFingerprint(description.check_value, canary)

    def verify_key(self, label: str, fingerprint: KeyFingerprint) -> None:
        """Hold the key, found anew, against a fingerprint.

        Raises:
            KeyDiffers: it is another key, or there is nothing to hold it against.
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable, HsmBusy
        """
        self._keys.retry_stale(label, lambda: self._require_fingerprint(self._keys.find_anew(label), fingerprint))

    def list_keys(self) -> list[KeyDescription]:
        """All secret and private keys of the token, in the order it gives them; it saves other sessions the search."""
        found = self._keys.everything()
        times = Counter(description.label for _, description in found)
        self._connection.key_hints = {
            description.label: handle for handle, description in found if times[description.label] == 1
        }
        return [description for _, description in found]

    def create_key(self, label: str, *, bits: int, encrypt: bool, decrypt: bool, extractable: bool = False) -> None:
        """Make an AES key on the token; an ``extractable`` one can be wrapped; see :mod:`xksproxy.hsm.instance.key_copy`.

        Raises:
            KeyAmbiguous: a key of this label exists already; nothing was made.
            TokenUnavailable: the token makes none.
        """
        if self._keys.search(label):
            raise KeyAmbiguous(f"the token already has a key of the label {label!r}")
        generate_aes_key(self._session, bits, label=label, encrypt=encrypt, decrypt=decrypt, extractable=extractable)

    def self_test(self) -> None:
        """Encrypt and decrypt under a key of this session's own, so that no customer key is touched (R-HLTH-3).

        A token that vanished is looked for too: its sessions may go on making session keys.

        Raises:
            SessionLost: the session is gone.
            TokenUnavailable: the token does not do it, or does it wrongly.
        """
        self._require_present()
        key = self._test_key_handle()
        try:
            sealed = self._seal(key, _TEST_TEXT, _TEST_AAD)
            opened = self._open(key, sealed, _TEST_AAD)
        except CryptokiError as error:
            lost = (
                return_values.error_class(self._quirks, error.function, error.return_value) is ErrorClass.SESSION_LOST
            )
            raise (SessionLost if lost else TokenUnavailable)(f"self-test failed: {error}") from error
        if opened != _TEST_TEXT:
            raise TokenUnavailable("self-test failed: decryption gave something else than was encrypted")

    def test_settings(self) -> None:
        """Prove the quirks on the token: IVs differ and come back, both outputs decrypt, a wrong tag is refused.

        A module that is set up wrongly could reuse an IV or accept a changed ciphertext without any error.

        Raises:
            SettingsMismatch: the token behaves otherwise than its settings say.
            TokenUnavailable: the token fails.
        """
        self._require_present()
        key = self._test_key_handle()
        try:
            first, second = (self._seal(key, _TEST_TEXT, _TEST_AAD) for _ in range(2))
            opened = {self._open(key, sealed, _TEST_AAD) for sealed in (first, second)}
        except CryptokiError as error:
            if return_values.error_class(self._quirks, error.function, error.return_value) in _POINTS_AT_SETTINGS:
                raise SettingsMismatch(f"{error}; check the settings iv and iv_source") from error
            raise TokenUnavailable(f"the fingerprint of the settings failed: {error}") from error
        if first.iv == second.iv or first.ciphertext == second.ciphertext:
            raise SettingsMismatch("two encryptions had the same IV or the same output; check the setting iv")
        if opened != {_TEST_TEXT}:
            raise SettingsMismatch("a ciphertext did not decrypt to what was encrypted; check the setting iv")
        self._test_refusal(key, first)

    def _test_refusal(self, key: int, sealed: Sealed) -> None:
        broken = Sealed(sealed.iv, sealed.ciphertext, bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:])
        try:
            self._open(key, broken, _TEST_AAD)
        except CryptokiError as error:
            refused = return_values.error_class(self._quirks, error.function, error.return_value)
            if refused in (ErrorClass.CIPHERTEXT_REJECTED, ErrorClass.AMBIGUOUS):
                return
            raise SettingsMismatch(
                f"a wrong tag is answered with {error}, which the settings do not name; add it to ambiguous_codes"
            ) from error
        raise SettingsMismatch("a ciphertext with a wrong tag was accepted")

    def _require_self_test(self, failure: Ambiguous) -> None:
        """Raise TokenUnavailable unless the session works; then it was the ciphertext."""
        try:
            self.self_test()
        except SessionLost as error:
            raise TokenUnavailable(f"{failure}, and then {error}") from error

    def _count(self, label: str, maximum: int | None) -> None:
        try:
            self._connection.usage.count_encryption(label, maximum)
        except LimitReached as error:
            raise EncryptionsSpent(f"the key has made the {maximum} encryptions it may on this machine") from error
        except StateUnusable as error:
            raise NotCounted(f"the encryption cannot be counted: {error}") from error

    def _test_key_handle(self) -> int:
        """A key of this session's own, gone with it."""
        if self._test_key is None:
            self._test_key = generate_aes_key(self._session, _AES_256_BITS, label=None, encrypt=True, decrypt=True)
        return self._test_key

    def _with_key(
        self,
        label: str,
        permits: Callable[[KeyDescription], bool],
        fingerprint: KeyFingerprint | None,
        operation: Callable[[int], Result],
    ) -> Result:
        """Run ``operation`` with the handle of a key, if that permits it and is the key it should be."""

        def attempt() -> Result:
            with self._errors_classified:
                self._raise_native_failure()
            key = self._keys.usable(label, permits)
            if fingerprint is not None:
                self._require_fingerprint(key, fingerprint)
            with self._errors_classified:
                return operation(key.handle)

        return self._keys.retry_stale(label, attempt)

    def _require_fingerprint(self, key: KnownKey, fingerprint: KeyFingerprint) -> None:
        told = key.description.check_value
        if told is not None and fingerprint.check_value is not None:
            if told != fingerprint.check_value:
                raise KeyDiffers("its check value is not that of the key that was first used under the label")
        elif fingerprint.canary is None or not key.description.can_decrypt:
            raise KeyDiffers("it tells no check value and cannot be tried, so it may be another key than on other HSMs")
        elif key.verified_by != fingerprint.canary:
            self._try_canary(key.handle, fingerprint.canary)
            key.verified_by = fingerprint.canary

    def _try_canary(self, key: int, canary: Sealed) -> None:
        try:
            with self._errors_classified:
                self._open(key, canary, b"")
        except CiphertextRejected as error:
            raise KeyDiffers(
                "it does not decrypt what the key that was first used under the label encrypted"
            ) from error
        except Ambiguous as error:
            self._require_self_test(error)
            raise KeyDiffers(
                "it does not decrypt what the key that was first used under the label encrypted"
            ) from error

    def _require_token(self) -> None:
        """A token that vanished or logged out also finds nothing; that is no missing key."""
        self._require_present()
        if not self.logged_in():
            raise SessionLost("the session is not logged in any more")

    def _require_present(self) -> None:
        with self._errors_classified:
            self._cryptoki.check_token(self._connection.slot)

    def _seal(self, key: int, plaintext: bytes, aad: bytes) -> Sealed:
        """One GCM encryption in the way of the module; its IV and lengths are checked before anyone relies on them."""
        self._require_size(plaintext)
        given = self._given_iv()
        output, iv = self._cryptoki.gcm_encrypt(self._handle, key, iv=given, aad=aad, plaintext=plaintext)
        if self._quirks.iv == "appended":
            output, iv = output[:-_APPENDED_IV_BYTES], output[-_APPENDED_IV_BYTES:]
        if not any(iv):
            raise SettingsMismatch("an encryption used an empty or all-zero IV; check the setting iv")
        if len(output) != len(plaintext) + _TAG_BYTES:
            raise SettingsMismatch(
                f"C_Encrypt gave {len(output)} bytes for {len(plaintext)} and a 16-byte tag; check iv"
            )
        return Sealed(iv, output[: len(plaintext)], output[len(plaintext) :])

    def _open(self, key: int, sealed: Sealed, aad: bytes) -> bytes:
        """One GCM decryption; it gives as many bytes as the ciphertext has."""
        self._require_size(sealed.ciphertext)
        plaintext = self._cryptoki.gcm_decrypt(
            self._handle, key, iv=sealed.iv, aad=aad, sealed=sealed.ciphertext + sealed.tag
        )
        if len(plaintext) != len(sealed.ciphertext):
            raise TokenUnavailable("C_Decrypt returned a plaintext of another length than the ciphertext")
        return plaintext

    def _given_iv(self) -> bytes:
        """What C_EncryptInit gets as IV: ours, a zeroed buffer to write into, or nothing."""
        if self._quirks.iv == "caller":
            return self._next_iv()
        return bytes(_IV_BYTES) if self._quirks.iv == "written-back" else b""

    def _require_size(self, data: bytes) -> None:
        maximum = self._quirks.maximum_data_bytes
        if maximum is not None and len(data) > maximum:
            raise DataTooLarge(f"the module takes at most {maximum} bytes, not {len(data)}")

    def _next_iv(self) -> bytes:
        """The next 12 bytes of a block from the generator, which the native_session draws from too; it saves round trips."""
        iv = self.native_session.take_iv()
        if iv is None:
            count = _IV_BYTES * _IV_BLOCK
            system = self._quirks.iv_source == "system"
            block = os.urandom(count) if system else self._cryptoki.random_bytes(self._handle, count)
            iv = block[:_IV_BYTES]
            self.native_session.stock(block[_IV_BYTES:])
        return iv

    def _raise_native_failure(self) -> None:
        failure, self._native_failure = self._native_failure, None
        if failure is not None:
            raise failure


def _can_encrypt(description: KeyDescription) -> bool:
    return description.can_encrypt


def _can_decrypt(description: KeyDescription) -> bool:
    return description.can_decrypt

"""One PKCS#11 session: AES-256-GCM under keys found by label, and the tests by which it proves itself."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from xksproxy.hsm import ckr
from xksproxy.hsm._crossing import Desk
from xksproxy.hsm.ckr import Consequence
from xksproxy.hsm.cryptoki import CryptokiError
from xksproxy.hsm.errors import (
    CiphertextRejected,
    DataTooLarge,
    EncryptionsSpent,
    KeyAmbiguous,
    KeyDiffers,
    NotCounted,
    ProofFailed,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.judgement import Ambiguous, FailuresJudged
from xksproxy.hsm.keymaking import generate_aes_key
from xksproxy.hsm.keys import KeyDescription
from xksproxy.hsm.keytable import KeyTable, KnownKey
from xksproxy.hsm.module import Connection, close_session
from xksproxy.state.statefile import StateUnusable
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
    {Consequence.MECHANISM_REFUSED, Consequence.CIPHERTEXT_REJECTED, Consequence.AMBIGUOUS}
)

Result = TypeVar("Result")


class Sealed(msgspec.Struct, frozen=True):
    """What an encryption gives: the IV it used, the ciphertext and the 16-byte tag."""

    iv: bytes
    ciphertext: bytes
    tag: bytes


class KeyProof(msgspec.Struct, frozen=True):
    """What tells a key from every other without disclosing it. It is kept on disk.

    Two keys are the same if both tell the same check value; or, where one tells none, if it decrypts the canary. A key
    that can be held against neither is refused.
    """

    check_value: bytes | None
    """CKA_CHECK_VALUE; None where the token tells none."""

    canary: Sealed | None
    """Random bytes that the key encrypted; None where it does not do both."""


class HsmSession:
    """A session, the keys known in it, and IVs drawn ahead. It belongs to one thread.

    Every method raises an :class:`HsmError`; after one whose ``discards_session`` is set, close the session.
    """

    def __init__(self, connection: Connection) -> None:
        self._cryptoki = connection.cryptoki
        self._connection = connection
        self._quirks = connection.quirks
        self._failures_judged = FailuresJudged(connection.quirks)
        self._session = connection.open_session()
        self._handle: int = self._session.handle
        self.desk = Desk(
            connection.gate,
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
            self.desk,
            hints=lambda: connection.key_hints,
            require_token=self._require_token,
        )
        self._failed_at_desk: CryptokiError | None = None
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
        with self._failures_judged:
            state = self._cryptoki.session_state(self._handle)
        return not self._connection.needs_login or state in _USER_STATES

    def close(self) -> None:
        """Give the session back to the token."""
        close_session(self._session)

    def judge_next(self, failure: tuple[str, int] | None) -> None:
        """Let the next encryption or decryption begin as it ended at the desk: with a function and its return value."""
        self._failed_at_desk = None if failure is None else CryptokiError(*failure)

    def let_desk(self, label: str, number: int, proof: KeyProof | None) -> None:
        """Let the desk make calls with this proof under the key of a label, which was just used, by its number."""
        self._keys.arm(label, number, proof, encrypt=self._quirks.iv != "appended")

    def encrypt(
        self,
        label: str,
        plaintext: bytes,
        aad: bytes,
        proof: KeyProof | None = None,
        maximum: int | None = None,
        *,
        counted: bool = False,
    ) -> Sealed:
        """AES-256-GCM under the key of a label, which must fit ``proof`` if one is given.

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

        return self._with_key(label, _can_encrypt, proof, seal)

    def decrypt(self, label: str, sealed: Sealed, aad: bytes, proof: KeyProof | None = None) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            CiphertextRejected, and what :meth:`encrypt` raises
        """
        try:
            return self._with_key(label, _can_decrypt, proof, lambda key: self._open(key, sealed, aad))
        except Ambiguous as error:
            self._prove_own_innocence(error)
            raise CiphertextRejected(f"{error}, and the session passes its self-test") from error

    def describe_key(self, label: str) -> KeyDescription:
        """Type, size and usages of a key, read from the token now.

        Raises:
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable
        """
        return self._keys.retry_stale(label, lambda: self._keys.find_anew(label).description)

    def make_proof(self, label: str) -> KeyProof:
        """A proof of the key as it is on this token now.

        Raises:
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable, HsmBusy
        """
        description = self.describe_key(label)
        both = description.is_aes_256 and description.can_encrypt and description.can_decrypt
        canary = self.encrypt(label, os.urandom(_CANARY_BYTES), b"") if both else None
        return KeyProof(description.check_value, canary)

    def verify_key(self, label: str, proof: KeyProof) -> None:
        """Hold the key, found anew, against a proof.

        Raises:
            KeyDiffers: it is another key, or there is nothing to hold it against.
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable, HsmBusy
        """
        self._keys.retry_stale(label, lambda: self._require_proven(self._keys.find_anew(label), proof))

    def list_keys(self) -> list[KeyDescription]:
        """All secret and private keys of the token, in the order it gives them; it saves other sessions the search."""
        found = self._keys.everything()
        times = Counter(description.label for _, description in found)
        self._connection.key_hints = {
            description.label: handle for handle, description in found if times[description.label] == 1
        }
        return [description for _, description in found]

    def create_key(self, label: str, *, bits: int, encrypt: bool, decrypt: bool, extractable: bool = False) -> None:
        """Make an AES key on the token; an ``extractable`` one can be wrapped; see :mod:`xksproxy.hsm.keycopy`.

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
            lost = ckr.consequence(self._quirks, error.function, error.return_value) is Consequence.SESSION_LOST
            raise (SessionLost if lost else TokenUnavailable)(f"self-test failed: {error}") from error
        if opened != _TEST_TEXT:
            raise TokenUnavailable("self-test failed: decryption gave something else than was encrypted")

    def prove(self) -> None:
        """Prove the quirks on the token: IVs differ and come back, both outputs decrypt, a wrong tag is refused.

        A module that is set up wrongly could reuse an IV or accept a changed ciphertext without any error.

        Raises:
            ProofFailed: the token behaves otherwise than its settings say.
            TokenUnavailable: the token fails.
        """
        self._require_present()
        key = self._test_key_handle()
        try:
            first, second = (self._seal(key, _TEST_TEXT, _TEST_AAD) for _ in range(2))
            opened = {self._open(key, sealed, _TEST_AAD) for sealed in (first, second)}
        except CryptokiError as error:
            if ckr.consequence(self._quirks, error.function, error.return_value) in _POINTS_AT_SETTINGS:
                raise ProofFailed(f"{error}; check the settings iv and iv_source") from error
            raise TokenUnavailable(f"the proof of the settings failed: {error}") from error
        if first.iv == second.iv or first.ciphertext == second.ciphertext:
            raise ProofFailed("two encryptions had the same IV or the same output; check the setting iv")
        if opened != {_TEST_TEXT}:
            raise ProofFailed("a ciphertext did not decrypt to what was encrypted; check the setting iv")
        self._prove_refusal(key, first)

    def _prove_refusal(self, key: int, sealed: Sealed) -> None:
        broken = Sealed(sealed.iv, sealed.ciphertext, bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:])
        try:
            self._open(key, broken, _TEST_AAD)
        except CryptokiError as error:
            refused = ckr.consequence(self._quirks, error.function, error.return_value)
            if refused in (Consequence.CIPHERTEXT_REJECTED, Consequence.AMBIGUOUS):
                return
            raise ProofFailed(
                f"a wrong tag is answered with {error}, which the settings do not name; add it to ambiguous_codes"
            ) from error
        raise ProofFailed("a ciphertext with a wrong tag was accepted")

    def _prove_own_innocence(self, failure: Ambiguous) -> None:
        """Raise TokenUnavailable unless the session works; then it was the ciphertext."""
        try:
            self.self_test()
        except SessionLost as error:
            raise TokenUnavailable(f"{failure}, and then {error}") from error

    def _count(self, label: str, maximum: int | None) -> None:
        try:
            self._connection.usage.spend(label, maximum)
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
        proof: KeyProof | None,
        operation: Callable[[int], Result],
    ) -> Result:
        """Run ``operation`` with the handle of a key, if that permits it and is the key it should be."""

        def attempt() -> Result:
            with self._failures_judged:
                self._raise_failure_at_desk()
            key = self._keys.usable(label, permits)
            if proof is not None:
                self._require_proven(key, proof)
            with self._failures_judged:
                return operation(key.handle)

        return self._keys.retry_stale(label, attempt)

    def _require_proven(self, key: KnownKey, proof: KeyProof) -> None:
        told = key.description.check_value
        if told is not None and proof.check_value is not None:
            if told != proof.check_value:
                raise KeyDiffers("its check value is not that of the key that was first used under the label")
        elif proof.canary is None or not key.description.can_decrypt:
            raise KeyDiffers("it tells no check value and cannot be tried, so it may be another key than on other HSMs")
        elif key.proven_by != proof.canary:
            self._try_canary(key.handle, proof.canary)
            key.proven_by = proof.canary

    def _try_canary(self, key: int, canary: Sealed) -> None:
        try:
            with self._failures_judged:
                self._open(key, canary, b"")
        except CiphertextRejected as error:
            raise KeyDiffers(
                "it does not decrypt what the key that was first used under the label encrypted"
            ) from error
        except Ambiguous as error:
            self._prove_own_innocence(error)
            raise KeyDiffers(
                "it does not decrypt what the key that was first used under the label encrypted"
            ) from error

    def _require_token(self) -> None:
        """A token that vanished or logged out also finds nothing; that is no missing key."""
        self._require_present()
        if not self.logged_in():
            raise SessionLost("the session is not logged in any more")

    def _require_present(self) -> None:
        with self._failures_judged:
            self._cryptoki.check_token(self._connection.slot)

    def _seal(self, key: int, plaintext: bytes, aad: bytes) -> Sealed:
        """One GCM encryption in the way of the module; its IV and lengths are checked before anyone relies on them."""
        self._require_size(plaintext)
        given = self._given_iv()
        output, iv = self._cryptoki.gcm_encrypt(self._handle, key, iv=given, aad=aad, plaintext=plaintext)
        if self._quirks.iv == "appended":
            output, iv = output[:-_APPENDED_IV_BYTES], output[-_APPENDED_IV_BYTES:]
        if not any(iv):
            raise ProofFailed("an encryption used an empty or all-zero IV; check the setting iv")
        if len(output) != len(plaintext) + _TAG_BYTES:
            raise ProofFailed(f"C_Encrypt gave {len(output)} bytes for {len(plaintext)} and a 16-byte tag; check iv")
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
        """The next 12 bytes of a block from the generator, which the desk draws from too; it saves round trips."""
        iv = self.desk.take_iv()
        if iv is None:
            count = _IV_BYTES * _IV_BLOCK
            system = self._quirks.iv_source == "system"
            block = os.urandom(count) if system else self._cryptoki.random_bytes(self._handle, count)
            iv = block[:_IV_BYTES]
            self.desk.stock(block[_IV_BYTES:])
        return iv

    def _raise_failure_at_desk(self) -> None:
        failure, self._failed_at_desk = self._failed_at_desk, None
        if failure is not None:
            raise failure


def _can_encrypt(description: KeyDescription) -> bool:
    return description.can_encrypt


def _can_decrypt(description: KeyDescription) -> bool:
    return description.can_decrypt

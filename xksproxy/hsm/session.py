"""One PKCS#11 session: finding keys, AES-256-GCM, attributes and a self-test."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from xksproxy.hsm import ckr
from xksproxy.hsm.ckr import Consequence
from xksproxy.hsm.cryptoki import CryptokiError
from xksproxy.hsm.errors import (
    CiphertextRejected,
    HsmBusy,
    HsmError,
    KeyAmbiguous,
    KeyMissing,
    KeyRefusesUse,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.keys import KEY_ATTRIBUTES, KEY_CLASSES, KeyDescription, describe, key_template
from xksproxy.hsm.module import Connection, close_session, generate_aes_key

_IV_BYTES: Final = 12
_IV_BLOCK: Final = 64
_TAG_BYTES: Final = 16
_RECHECK_SECONDS: Final = 5.0
_AES_256_BITS: Final = 256
_USER_STATES: Final = frozenset({1, 3})

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Sealed:
    """What an encryption gives: the IV it used, the ciphertext and the 16-byte tag."""

    iv: bytes
    ciphertext: bytes
    tag: bytes


class _HandleStale(HsmError):
    """The handle means no object, or another one, by now."""


@dataclass(slots=True)
class _CachedKey:
    handle: int
    description: KeyDescription
    checked_at: float


class HsmSession:
    """A session, the key handles that are valid in it, and IVs drawn ahead. It belongs to one thread.

    Every method raises an :class:`HsmError`; after one whose ``discards_session`` is set, close the session.
    """

    def __init__(self, connection: Connection, preset: str) -> None:
        self._cryptoki = connection.cryptoki
        self._connection = connection
        self._preset = preset
        self._session = connection.open_session()
        self._handle: int = self._session.handle
        self._keys: dict[str, _CachedKey] = {}
        self._ivs = b""
        self._test_key: int | None = None

    def close(self) -> None:
        """Give the session back to the token."""
        close_session(self._session)

    def encrypt(self, label: str, plaintext: bytes, aad: bytes) -> Sealed:
        """AES-256-GCM under the key of a label. The IV comes from the token's generator and serves one attempt.

        Raises:
            KeyMissing, KeyAmbiguous, KeyRefusesUse, SessionLost, TokenUnavailable, HsmBusy
        """

        def attempt(key: _CachedKey) -> Sealed:
            iv = self._next_iv()
            output = self._cryptoki.gcm_encrypt(self._handle, key.handle, iv=iv, aad=aad, plaintext=plaintext)
            return _split(iv, output, len(plaintext))

        return self._with_key(label, lambda description: description.can_encrypt, attempt)

    def decrypt(self, label: str, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            CiphertextRejected, KeyMissing, KeyAmbiguous, KeyRefusesUse, SessionLost, TokenUnavailable, HsmBusy
        """

        def attempt(key: _CachedKey) -> bytes:
            plaintext = self._cryptoki.gcm_decrypt(
                self._handle, key.handle, iv=sealed.iv, aad=aad, sealed=sealed.ciphertext + sealed.tag
            )
            if len(plaintext) != len(sealed.ciphertext):
                raise TokenUnavailable("C_Decrypt returned a plaintext of another length than the ciphertext")
            return plaintext

        return self._with_key(label, lambda description: description.can_decrypt, attempt)

    def describe_key(self, label: str) -> KeyDescription:
        """Type, size and usages of a key, read from the token now.

        Raises:
            KeyMissing, KeyAmbiguous, SessionLost, TokenUnavailable
        """
        self._keys.pop(label, None)
        return self._retry_stale(label, lambda: self._key(label).description)

    def list_keys(self) -> list[KeyDescription]:
        """All secret and private keys of the token, in the order it gives them."""
        keys = []
        for handle in self._find(None):
            with suppress(_HandleStale):  # destroyed since the search
                keys.append(self._describe(handle))
        return keys

    def create_key(self, label: str, *, bits: int, encrypt: bool, decrypt: bool) -> None:
        """Make an AES key on the token.

        Raises:
            KeyAmbiguous: a key of this label exists already; nothing was made.
            TokenUnavailable: the token makes none.
        """
        if self._find(label):
            raise KeyAmbiguous(f"the token already has a key of the label {label!r}")
        generate_aes_key(self._session, bits, label=label, encrypt=encrypt, decrypt=decrypt)

    def self_test(self) -> None:
        """Encrypt and decrypt under a key of this session's own, so that no customer key is touched (R-HLTH-3).

        Raises:
            TokenUnavailable: the token does not do it, or does it wrongly.
        """
        if self._test_key is None:
            self._test_key = generate_aes_key(self._session, _AES_256_BITS, label=None, encrypt=True, decrypt=True)
        text, aad = b"xksproxy self-test", b"aad"
        try:
            iv = self._next_iv()
            sealed = self._cryptoki.gcm_encrypt(self._handle, self._test_key, iv=iv, aad=aad, plaintext=text)
            opened = self._cryptoki.gcm_decrypt(self._handle, self._test_key, iv=iv, aad=aad, sealed=sealed)
        except CryptokiError as error:
            raise TokenUnavailable(f"self-test failed: {error}") from error
        if opened != text:
            raise TokenUnavailable("self-test failed: decryption gave something else than was encrypted")

    def _with_key(
        self, label: str, permits: Callable[[KeyDescription], bool], attempt: Callable[[_CachedKey], Result]
    ) -> Result:
        """Run ``attempt`` with the key of a label, if that permits it."""
        return self._retry_stale(label, lambda: self._call(lambda: attempt(self._usable_key(label, permits))))

    def _retry_stale(self, label: str, function: Callable[[], Result]) -> Result:
        """Run ``function``; when it meets a stale handle, forget the handle and run it once more."""
        try:
            return function()
        except _HandleStale:
            self._keys.pop(label, None)
        try:
            return function()
        except _HandleStale as error:
            raise SessionLost(f"a key handle was refused although just found: {error}") from error

    def _usable_key(self, label: str, permits: Callable[[KeyDescription], bool]) -> _CachedKey:
        """The key, if it is AES-256 and permits the use. What is refused is refused on a fresh look."""
        key = self._key(label)
        if key.description.is_aes_256 and permits(key.description):
            return key
        self._keys.pop(label, None)
        key = self._key(label)
        if not key.description.is_aes_256:
            raise KeyRefusesUse(f"the key is {key.description.spec}, not AES_256")
        if not permits(key.description):
            raise KeyRefusesUse("the key's attributes on the token do not allow this use")
        return key

    def _key(self, label: str) -> _CachedKey:
        """The key of a label: from the cache, where its attributes are read again every 5 s, or by a search."""
        now = time.monotonic()
        key = self._keys.get(label)
        if key is None:
            handle = self._find_one(label)
            self._keys[label] = key = _CachedKey(handle, self._describe(handle), now)
        elif now - key.checked_at > _RECHECK_SECONDS:
            key.description = self._describe(key.handle)
            key.checked_at = now
            if key.description.label != label:
                raise _HandleStale("the handle has come to mean another object")
        return key

    def _find_one(self, label: str) -> int:
        handles = self._find(label)
        if len(handles) > 1:
            raise KeyAmbiguous(f"{len(handles)} keys on the token have the same label")
        if not handles:
            self._require_logged_in()
            raise KeyMissing("the token has no key of this label")
        return handles[0]

    def _find(self, label: str | None) -> list[int]:
        """The handles of all keys of a label, or of all keys."""
        handles: list[int] = []
        for key_class in KEY_CLASSES:
            template = key_template(key_class, label)
            handles += self._call(partial(self._cryptoki.find_objects, self._handle, template))
        return handles

    def _require_logged_in(self) -> None:
        """A token that vanished or logged out also finds nothing; that is no missing key."""
        self._call(lambda: self._cryptoki.check_token(self._connection.slot))
        state = self._call(lambda: self._cryptoki.session_state(self._handle))
        if self._connection.needs_login and state not in _USER_STATES:
            raise TokenUnavailable("the session is not logged in any more")

    def _describe(self, handle: int) -> KeyDescription:
        return describe(self._call(lambda: self._cryptoki.read_attributes(self._handle, handle, KEY_ATTRIBUTES)))

    def _next_iv(self) -> bytes:
        """The next 12 bytes of a block from the token's generator; a block saves a round trip on each Encrypt."""
        if not self._ivs:
            self._ivs = self._cryptoki.random_bytes(self._handle, _IV_BYTES * _IV_BLOCK)
        iv, self._ivs = self._ivs[:_IV_BYTES], self._ivs[_IV_BYTES:]
        if not any(iv):
            raise TokenUnavailable("the token's generator returned an all-zero IV")
        return iv

    def _call(self, function: Callable[[], Result]) -> Result:
        """Turn a return value into the exception of its consequence."""
        try:
            return function()
        except CryptokiError as error:
            raise self._judge(error) from error

    def _judge(self, error: CryptokiError) -> HsmError:
        consequence = ckr.consequence(self._preset, error.function, error.return_value)
        if consequence is Consequence.AMBIGUOUS:
            self.self_test()
            return CiphertextRejected(f"{error}, and the session passes its self-test")
        return _EXCEPTIONS[consequence](str(error))


_EXCEPTIONS: Final[Mapping[Consequence, type[HsmError]]] = {
    Consequence.CIPHERTEXT_REJECTED: CiphertextRejected,
    Consequence.KEY_REFUSES_USE: KeyRefusesUse,
    Consequence.HANDLE_STALE: _HandleStale,
    Consequence.SESSION_LOST: SessionLost,
    Consequence.TOKEN_UNAVAILABLE: TokenUnavailable,
    Consequence.BUSY: HsmBusy,
}


def _split(iv: bytes, output: bytes, plaintext_length: int) -> Sealed:
    """Ciphertext and tag apart (R-ENC-6), their lengths checked."""
    if len(output) != plaintext_length + _TAG_BYTES:
        raise TokenUnavailable(f"C_Encrypt returned {len(output)} bytes for {plaintext_length} and a 16-byte tag")
    return Sealed(iv, output[:plaintext_length], output[plaintext_length:])

"""AES-GCM calls of one session. Each has the IV that the module needs, and its output is checked."""

import os
import time
from typing import Final

from xksproxy.hsm._native import NativeSession
from xksproxy.hsm.errors import DataTooLarge, SettingsMismatch, TokenUnavailable
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11.cryptoki import Cryptoki
from xksproxy.hsm.pkcs11.generator_check import GeneratorCheck
from xksproxy.hsm.pkcs11.quirks import Quirks

_IV_BYTES: Final = 12
_APPENDED_IV_BYTES: Final = 16
_IV_BLOCK: Final = 64
_TAG_BYTES: Final = 16


class GcmCalls:
    """GCM calls by key handle. They raise CryptokiError as the module returns it; the caller classifies it.

    IVs are drawn in blocks, which saves round trips. The native session takes IVs from the same block. A block from the
    token's generator is combined by XOR with one from the operating system's, so that one good generator is enough.
    """

    def __init__(
        self,
        cryptoki: Cryptoki,
        session: int,
        quirks: Quirks,
        native_session: NativeSession,
        generator_check: GeneratorCheck,
    ) -> None:
        self._generator_check = generator_check
        self._cryptoki = cryptoki
        self._session = session
        self._quirks = quirks
        self._native_session = native_session
        self._seconds: float | None = None

    def take_seconds(self) -> float | None:
        """Return and forget the seconds that the last call was inside the module; None if there was no call."""
        seconds, self._seconds = self._seconds, None
        return seconds

    def encrypt(self, key: int, plaintext: bytes, aad: bytes) -> Sealed:
        """Encrypt with a new IV.

        Raises:
            CryptokiError: a function fails.
            DataTooLarge: the module does not take so many bytes.
            SettingsMismatch: IV or output are not what the settings say.
        """
        self._require_size(plaintext)
        given = self._given_iv()
        began = time.monotonic()
        output, iv = self._cryptoki.gcm_encrypt(self._session, key, iv=given, aad=aad, plaintext=plaintext)
        self._seconds = time.monotonic() - began
        if self._quirks.iv == "appended":
            output, iv = output[:-_APPENDED_IV_BYTES], output[-_APPENDED_IV_BYTES:]
        if self._quirks.iv == "caller" and iv != given:
            raise SettingsMismatch("an encryption changed the IV that it was given; check the setting iv")
        if not any(iv):
            raise SettingsMismatch("an encryption used an empty or all-zero IV; check the setting iv")
        if len(output) != len(plaintext) + _TAG_BYTES:
            raise SettingsMismatch(
                f"C_Encrypt gave {len(output)} bytes for {len(plaintext)} and a 16-byte tag; check iv"
            )
        return Sealed(iv, output[: len(plaintext)], output[len(plaintext) :])

    def decrypt(self, key: int, sealed: Sealed, aad: bytes) -> bytes:
        """Decrypt.

        Raises:
            CryptokiError: a function fails; from C_Decrypt it may mean that the tag is wrong.
            DataTooLarge: the module does not take so many bytes.
            TokenUnavailable: the plaintext has another length than the ciphertext.
        """
        self._require_size(sealed.ciphertext)
        began = time.monotonic()
        plaintext = self._cryptoki.gcm_decrypt(
            self._session, key, iv=sealed.iv, aad=aad, sealed=sealed.ciphertext + sealed.tag
        )
        self._seconds = time.monotonic() - began
        if len(plaintext) != len(sealed.ciphertext):
            raise TokenUnavailable("C_Decrypt returned a plaintext of another length than the ciphertext")
        return plaintext

    def _given_iv(self) -> bytes:
        """The IV for C_EncryptInit: from the proxy, a zeroed buffer that the HSM fills, or none."""
        if self._quirks.iv == "caller":
            return self._next_iv()
        return bytes(_IV_BYTES) if self._quirks.iv == "written-back" else b""

    def _next_iv(self) -> bytes:
        iv = self._native_session.take_iv()
        if iv is None:
            block = os.urandom(_IV_BYTES * _IV_BLOCK)
            if self._quirks.iv_source == "token":
                drawn = self.draw(len(block))
                block = bytes(a ^ b for a, b in zip(block, drawn, strict=True))
            iv = block[:_IV_BYTES]
            self._native_session.replace_ivs(block[_IV_BYTES:])
        return iv

    def draw(self, count: int) -> bytes:
        """Return ``count`` bytes from the token's generator, and check them.

        Raises:
            CryptokiError: the token gives none.
            GeneratorFailed: the generator repeats itself.
        """
        drawn = self._cryptoki.random_bytes(self._session, count)
        self._generator_check.require_new(drawn, _IV_BYTES)
        return drawn

    def _require_size(self, data: bytes) -> None:
        maximum = self._quirks.maximum_data_bytes
        if maximum is not None and len(data) > maximum:
            raise DataTooLarge(f"the module takes at most {maximum} bytes, not {len(data)}")

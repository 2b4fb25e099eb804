"""Encryptions and decryptions as requests to a session, in a form that the native session can serve too."""

import hmac
from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

from xksproxy.aead.cdiv import integrity_value_after
from xksproxy.hsm._native import Call
from xksproxy.hsm.errors import CiphertextRejected, CiphertextWrong, TokenUnavailable
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.hsm.pkcs11.classification import Ambiguous
from xksproxy.state.usage import UsageBook

Result = TypeVar("Result")
Operation = Callable[[HsmSession], Result]
"""A request to a session. It runs on the session's own thread and is safe to repeat."""


OUTPUT_DIFFERS: Final = "the HSM decrypts its own output to other data than the plaintext"


class Encryption:
    """An encryption under the key of a label; see :meth:`HsmSession.encrypt`."""

    __slots__ = ("_counted", "aad", "fingerprint", "label", "maximum", "plaintext")

    calls: ClassVar[int] = 1
    """The number of GCM calls that it makes, one after another."""

    def __init__(
        self, label: str, plaintext: bytes, aad: bytes, fingerprint: KeyFingerprint | None, maximum: int | None
    ) -> None:
        self.label = label
        self.plaintext = plaintext
        self.aad = aad
        self.fingerprint = fingerprint
        self.maximum = maximum
        self._counted = False

    def __call__(self, session: HsmSession) -> Sealed:
        """Encrypt in Python, on the session's thread."""
        counted, self._counted = self._counted, False
        return session.encrypt(self.label, self.plaintext, self.aad, self.fingerprint, self.maximum, counted=counted)

    def prepare(self, call: Call, key: int, usage: UsageBook) -> bool:
        """Allow the native session to make the call, unless counting waits for the disk. Returns whether it may."""
        self._counted = usage.count_if_reserved(self.label, self.maximum)
        if self._counted:
            call.set_gcm(key, self.fingerprint, True, b"", self.aad, self.plaintext)
        return self._counted

    def attempted(self) -> None:
        """Note that the native session tried. The counted encryption is used, so another attempt is counted again."""
        self._counted = False

    def outcome(self, call: Call) -> Sealed:
        """The result of a call that the native session made."""
        output, length = call.output, len(self.plaintext)
        return Sealed(call.iv, output[:length], output[length:])

    @staticmethod
    def iv_of(value: Sealed) -> bytes:
        """The IV of a result."""
        return value.iv


class VerifiedEncryption:
    """An encryption, the integrity value of its output, and a trial decrypt of that output (R-CDIV-5, R-CDIV-6).

    The order matters: an output that is corrupted after it was hashed does not decrypt.
    """

    __slots__ = ("encryption", "fingerprint", "integrity_prefix", "label")

    calls: ClassVar[int] = 2

    def __init__(self, encryption: Encryption, integrity_prefix: bytes) -> None:
        """``integrity_prefix``: see :func:`xksproxy.aead.cdiv.integrity_prefix`."""
        self.label = encryption.label
        self.fingerprint = encryption.fingerprint
        self.encryption = encryption
        self.integrity_prefix = integrity_prefix

    def __call__(self, session: HsmSession) -> tuple[Sealed, bytes]:
        """Encrypt, hash and decrypt in Python, on the session's thread.

        Raises:
            CiphertextWrong: the output does not decrypt, or not to the plaintext.
            HsmError: see :meth:`HsmSession.encrypt` and :meth:`HsmSession.decrypt`.
        """
        encryption = self.encryption
        try:
            sealed = encryption(session)
            integrity_value = integrity_value_after(
                self.integrity_prefix, iv=sealed.iv, ciphertext=sealed.ciphertext, tag=sealed.tag
            )
            opened = session.decrypt(self.label, sealed, encryption.aad, self.fingerprint)
        except CiphertextRejected as error:
            raise CiphertextWrong(f"the HSM does not decrypt its own output: {error}") from error
        except Ambiguous as error:  # from the trial decrypt of a native call, whose output is lost
            raise TokenUnavailable(f"the trial decrypt failed: {error}") from error
        if not hmac.compare_digest(opened, encryption.plaintext):
            raise CiphertextWrong(OUTPUT_DIFFERS)
        return sealed, integrity_value

    def prepare(self, call: Call, key: int, usage: UsageBook) -> None:
        """Allow the native session to make the calls, unless counting waits for the disk."""
        if self.encryption.prepare(call, key, usage):
            call.set_integrity_prefix(self.integrity_prefix)

    def attempted(self) -> None:
        """See :meth:`Encryption.attempted`."""
        self.encryption.attempted()

    def outcome(self, call: Call) -> tuple[Sealed, bytes]:
        """The output of the native call, and its integrity value."""
        return self.encryption.outcome(call), call.integrity_value

    @staticmethod
    def iv_of(value: tuple[Sealed, bytes]) -> bytes:
        """The IV of a result."""
        return value[0].iv


class Decryption:
    """A decryption under the key of a label; see :meth:`HsmSession.decrypt`."""

    __slots__ = ("aad", "fingerprint", "label", "sealed")

    calls: ClassVar[int] = 1

    def __init__(self, label: str, sealed: Sealed, aad: bytes, fingerprint: KeyFingerprint | None) -> None:
        self.label = label
        self.sealed = sealed
        self.aad = aad
        self.fingerprint = fingerprint

    def __call__(self, session: HsmSession) -> bytes:
        """Decrypt in Python, on the session's thread."""
        return session.decrypt(self.label, self.sealed, self.aad, self.fingerprint)

    def prepare(self, call: Call, key: int, _: UsageBook) -> None:
        """Allow the native session to make the call."""
        sealed = self.sealed
        call.set_gcm(key, self.fingerprint, False, sealed.iv, self.aad, sealed.ciphertext + sealed.tag)

    def attempted(self) -> None:
        """Note that the native session tried; decryptions are not counted."""

    def outcome(self, call: Call) -> bytes:
        """The result of a call that the native session made."""
        return call.output


GcmOperation = Encryption | VerifiedEncryption | Decryption
"""An operation that the native session can make."""

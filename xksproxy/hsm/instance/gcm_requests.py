"""Encryptions and decryptions as requests to a session, in a form that the native session can serve too."""

from collections.abc import Callable
from typing import TypeVar

from xksproxy.hsm._native import Call
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.state.usage import UsageBook

Result = TypeVar("Result")
Operation = Callable[[HsmSession], Result]
"""A request to a session. It runs on the session's own thread and is safe to repeat."""


class Encryption:
    """An encryption under the key of a label; see :meth:`HsmSession.encrypt`."""

    __slots__ = ("_counted", "aad", "fingerprint", "label", "maximum", "plaintext")

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

    def prepare(self, call: Call, key: int, usage: UsageBook) -> None:
        """Allow the native session to make the call, unless counting it would wait for a disk; then Python makes it."""
        self._counted = usage.spend_ahead(self.label, self.maximum)
        if self._counted:
            call.set_gcm(key, self.fingerprint, True, b"", self.aad, self.plaintext)

    def attempted(self) -> None:
        """Note that the native session tried: the counted encryption is used up, and another attempt counts anew."""
        self._counted = False

    def outcome(self, call: Call) -> Sealed:
        """The result of a call that the native session made."""
        output, length = call.output, len(self.plaintext)
        return Sealed(call.iv, output[:length], output[length:])


class Decryption:
    """A decryption under the key of a label; see :meth:`HsmSession.decrypt`."""

    __slots__ = ("aad", "fingerprint", "label", "sealed")

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

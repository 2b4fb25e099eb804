"""AES-GCM work for a session, in a form that can cross to its thread without the interpreter."""

from collections.abc import Callable
from typing import TypeVar

from xksproxy.hsm._native import Call
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.state.usage import UsageBook

Result = TypeVar("Result")
Operation = Callable[[HsmSession], Result]
"""What is asked of a session, on the session's own thread; safe to repeat."""


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
        """Let a native_session make it, unless it cannot be counted at once: then the thread does, which may wait for a disk."""
        self._counted = usage.count_if_reserved(self.label, self.maximum)
        if self._counted:
            call.set_gcm(key, self.fingerprint, True, b"", self.aad, self.plaintext)

    def attempted(self) -> None:
        """A native_session has tried it: that was the one counted, and what follows counts anew."""
        self._counted = False

    def outcome(self, call: Call) -> Sealed:
        """What a native_session's call gave."""
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
        """Let a native_session make it."""
        sealed = self.sealed
        call.set_gcm(key, self.fingerprint, False, sealed.iv, self.aad, sealed.ciphertext + sealed.tag)

    def attempted(self) -> None:
        """A native_session has tried it; decryptions are not counted."""

    def outcome(self, call: Call) -> bytes:
        """What a native_session's call gave."""
        return call.output

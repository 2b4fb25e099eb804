"""AES-GCM work for a session, in a form that can cross to its thread without the interpreter."""

from collections.abc import Callable
from typing import TypeVar

from xksproxy.hsm._crossing import Call
from xksproxy.hsm.session import HsmSession, KeyProof, Sealed
from xksproxy.state.usage import UsageBook

Result = TypeVar("Result")
Work = Callable[[HsmSession], Result]
"""What is asked of a session, on the session's own thread; safe to repeat."""


class Encryption:
    """An encryption under the key of a label; see :meth:`HsmSession.encrypt`."""

    __slots__ = ("_counted", "aad", "label", "maximum", "plaintext", "proof")

    def __init__(self, label: str, plaintext: bytes, aad: bytes, proof: KeyProof | None, maximum: int | None) -> None:
        self.label = label
        self.plaintext = plaintext
        self.aad = aad
        self.proof = proof
        self.maximum = maximum
        self._counted = False

    def __call__(self, session: HsmSession) -> Sealed:
        """Encrypt in Python, on the session's thread."""
        counted, self._counted = self._counted, False
        return session.encrypt(self.label, self.plaintext, self.aad, self.proof, self.maximum, counted=counted)

    def prepare(self, call: Call, key: int, usage: UsageBook) -> None:
        """Let a desk make it, unless it cannot be counted at once: then the thread does, which may wait for a disk."""
        self._counted = usage.spend_ahead(self.label, self.maximum)
        if self._counted:
            call.for_desk(key, self.proof, True, b"", self.aad, self.plaintext)

    def attempted(self) -> None:
        """A desk has tried it: that was the one counted, and what follows counts anew."""
        self._counted = False

    def outcome(self, call: Call) -> Sealed:
        """What a desk's call gave."""
        output, length = call.output, len(self.plaintext)
        return Sealed(call.iv, output[:length], output[length:])


class Decryption:
    """A decryption under the key of a label; see :meth:`HsmSession.decrypt`."""

    __slots__ = ("aad", "label", "proof", "sealed")

    def __init__(self, label: str, sealed: Sealed, aad: bytes, proof: KeyProof | None) -> None:
        self.label = label
        self.sealed = sealed
        self.aad = aad
        self.proof = proof

    def __call__(self, session: HsmSession) -> bytes:
        """Decrypt in Python, on the session's thread."""
        return session.decrypt(self.label, self.sealed, self.aad, self.proof)

    def prepare(self, call: Call, key: int, _: UsageBook) -> None:
        """Let a desk make it."""
        sealed = self.sealed
        call.for_desk(key, self.proof, False, sealed.iv, self.aad, sealed.ciphertext + sealed.tag)

    def attempted(self) -> None:
        """A desk has tried it; decryptions are not counted."""

    def outcome(self, call: Call) -> bytes:
        """What a desk's call gave."""
        return call.output

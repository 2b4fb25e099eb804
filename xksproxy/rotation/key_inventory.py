"""The HSMs of a key store while a rotation goes on: who holds which version, and who is the same."""

import base64
import binascii
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.hsm.errors import (
    CiphertextRejected,
    KeyAmbiguous,
    KeyDiffers,
    KeyMissing,
    KeyRefusesUse,
    TokenUnavailable,
)
from xksproxy.hsm.instance.key_copy import copy_key, forbid_extraction
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.rotation.errors import RotationRefused

_POLL_SECONDS: Final = 0.5
_CANARY_BYTES: Final = 16
_TAG_BYTES: Final = 16
_IV_BYTES: Final = (12, 16)
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}")


class KeyInventory:
    """Sessions on all HSMs of a key store, by the id of the HSM, in the order of the configuration."""

    def __init__(self, sessions: Mapping[str, HsmSession]) -> None:
        self._sessions = sessions

    def labels(self) -> dict[str, Counter[str]]:
        """How many keys of which label each HSM has.

        Raises:
            HsmError: an HSM cannot be asked.
        """
        return {hsm: Counter(key.label for key in session.list_keys()) for hsm, session in self._sessions.items()}

    def holders(self, label: str) -> list[str]:
        """The HSMs that have the key of a label.

        Raises:
            RotationRefused: one of them has several.
            HsmError: an HSM cannot be asked.
        """
        counts = {hsm: labels[label] for hsm, labels in self.labels().items()}
        for hsm, count in counts.items():
            if count > 1:
                raise RotationRefused(
                    f"{hsm} has {count} keys of the label {label}",
                    "remove all but one of them with the vendor's tools; none of them has been in use",
                )
        return [hsm for hsm, count in counts.items() if count]

    def make(self, label: str, *, extractable: bool) -> None:
        """Make the key on the first HSM.

        Raises:
            HsmError: it cannot be made.
        """
        first = next(iter(self._sessions.values()))
        first.create_key(label, bits=256, encrypt=True, decrypt=True, extractable=extractable)

    def missing(self, label: str) -> list[str]:
        """The HSMs that do not have the key; see :meth:`holders`."""
        present = self.holders(label)
        return [hsm for hsm in self._sessions if hsm not in present]

    def await_everywhere(self, label: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until the HSMs' own replication has brought the key to all of them.

        Raises:
            RotationRefused: it has not by then.
        """
        end = time.monotonic() + seconds
        while absent := self.missing(label):
            if time.monotonic() >= end:
                raise RotationRefused(
                    f"the key {label} has not reached {', '.join(absent)} within {seconds:g} s",
                    "run the same command again once the HSMs have replicated it; nothing is made twice",
                    "for HSMs that do not replicate, docs/key-versions.md says how --copy-with is used from the start",
                )
            sleep(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))

    def copy_to_missing(self, label: str, wrapping_label: str) -> list[str]:
        """Copy the key to the HSMs that lack it, in wrapped form; to which.

        Raises:
            RotationRefused: a token does not wrap or unwrap it.
            HsmError: an HSM cannot be asked.
        """
        holders = self.holders(label)
        source = next((hsm for hsm in holders if self._sessions[hsm].describe_key(label).extractable), holders[0])
        copied = self.missing(label)
        for hsm in copied:
            try:
                copy_key(self._sessions[source], self._sessions[hsm], label, wrapping_label)
            except (KeyAmbiguous, KeyMissing, KeyRefusesUse, TokenUnavailable) as error:
                raise RotationRefused(
                    f"the key {label} cannot be copied from {source} to {hsm}: {error}",
                    f"a key that was made without --copy-with cannot leave {source}; see docs/key-versions.md",
                ) from error
        return copied

    def forbid_extraction(self, label: str) -> None:
        """Make the key not extractable, on every HSM that has it.

        Raises:
            HsmError: an HSM refuses.
        """
        for hsm in self.holders(label):
            forbid_extraction(self._sessions[hsm], label)

    def make_fingerprint(self, label: str) -> KeyFingerprint:
        """A proof of the key as the first HSM has it; a canary that it encrypted is part of it.

        Raises:
            RotationRefused: the key cannot do both.
            HsmError: the HSM does not do it.
        """
        hsm, session = next(iter(self._sessions.items()))
        proof = session.make_fingerprint(label)
        if proof.canary is None:
            raise RotationRefused(f"the key {label} on {hsm} is no AES-256 key that may encrypt and decrypt")
        return proof

    def prove(self, label: str, proof: KeyFingerprint) -> None:
        """Let every HSM decrypt the canary, so that all are known to hold the same key and to be able to use it.

        Raises:
            RotationRefused: one of them holds another key, or may not use it.
            HsmError: an HSM does not answer.
        """
        assert proof.canary is not None  # noqa: S101 - make_fingerprint and fingerprint_from_text see to it
        for hsm, session in self._sessions.items():
            description = session.describe_key(label)
            if not (description.is_aes_256 and description.can_encrypt and description.can_decrypt):
                raise RotationRefused(f"the key {label} on {hsm} is no AES-256 key that may encrypt and decrypt")
            try:
                session.verify_key(label, proof)
                session.decrypt(label, proof.canary, b"")
            except (KeyDiffers, CiphertextRejected, KeyRefusesUse) as error:
                raise RotationRefused(
                    f"{hsm} holds another key under the label {label} than the one to be proven",
                    "it does not become primary; find out which of the two is the right one before you touch either",
                ) from error


def fingerprint_to_text(number: int, proof: KeyFingerprint) -> str:
    """The version and its canary as a word that another machine can be given; it discloses nothing of the key."""
    canary = proof.canary
    if canary is None:
        raise ValueError("the proof has no canary")
    return f"{number}:{base64.b64encode(canary.iv + canary.ciphertext + canary.tag).decode('ascii')}"


def fingerprint_from_text(text: str) -> tuple[int, KeyFingerprint]:
    """The version and the proof that :func:`fingerprint_to_text` wrote.

    Raises:
        RotationRefused: it is something else.
    """
    number, _, canary = text.partition(":")
    try:
        data = base64.b64decode(canary, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    iv_bytes = len(data) - _CANARY_BYTES - _TAG_BYTES
    if iv_bytes not in _IV_BYTES or not _NUMBER.fullmatch(number) or int(number) > MAXIMUM_VERSION:
        raise RotationRefused("this is no proof; copy the line that keys rotate printed on the other machine")
    iv, rest = data[:iv_bytes], data[iv_bytes:]
    return int(number), KeyFingerprint(None, Sealed(iv, rest[:_CANARY_BYTES], rest[_CANARY_BYTES:]))

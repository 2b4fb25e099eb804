"""The HSMs of a key store while a rotation goes on: who holds which version, and who is the same."""

import base64
import binascii
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from xksproxy.hsm.errors import CiphertextRejected, KeyDiffers, KeyRefusesUse
from xksproxy.hsm.keycopy import copy_key, forbid_extraction
from xksproxy.hsm.session import HsmSession, KeyProof, Sealed
from xksproxy.rotation.errors import RotationRefused

_POLL_SECONDS: Final = 0.5
_CANARY_BYTES: Final = 16
_TAG_BYTES: Final = 16
_IV_BYTES: Final = (12, 16)


class Holdings:
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
                    "or copy it in wrapped form with --copy-with LABEL, a wrapping key that all HSMs hold",
                )
            sleep(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))

    def copy_to_missing(self, label: str, wrapping_label: str) -> list[str]:
        """Copy the key to the HSMs that lack it, in wrapped form; to which. After that it can leave none of them.

        Raises:
            HsmError: a token does not wrap or unwrap it.
        """
        holders = [self._sessions[hsm] for hsm in self.holders(label)]
        source = next((holder for holder in holders if holder.describe_key(label).extractable), holders[0])
        copied = self.missing(label)
        for hsm in copied:
            copy_key(source, self._sessions[hsm], label, wrapping_label)
        forbid_extraction(source, label)
        return copied

    def make_proof(self, label: str) -> KeyProof:
        """A proof of the key as the first HSM has it; a canary that it encrypted is part of it.

        Raises:
            RotationRefused: the key cannot do both.
            HsmError: the HSM does not do it.
        """
        hsm, session = next(iter(self._sessions.items()))
        proof = session.make_proof(label)
        if proof.canary is None:
            raise RotationRefused(f"the key {label} on {hsm} is no AES-256 key that may encrypt and decrypt")
        return proof

    def prove(self, label: str, proof: KeyProof) -> None:
        """Let every HSM decrypt the canary, so that all are known to hold the same key and to be able to use it.

        Raises:
            RotationRefused: one of them holds another key, or may not use it.
            HsmError: an HSM does not answer.
        """
        assert proof.canary is not None  # noqa: S101 - make_proof and proof_from_text see to it
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
                    "it must not become primary: find out where it comes from, and remove it",
                ) from error


def proof_to_text(proof: KeyProof) -> str:
    """The canary as a word that another machine can be given; it discloses nothing of the key."""
    canary = proof.canary
    if canary is None:
        raise ValueError("the proof has no canary")
    return base64.b64encode(canary.iv + canary.ciphertext + canary.tag).decode("ascii")


def proof_from_text(text: str) -> KeyProof:
    """What :func:`proof_to_text` wrote.

    Raises:
        RotationRefused: it is something else.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    iv_bytes = len(data) - _CANARY_BYTES - _TAG_BYTES
    if iv_bytes not in _IV_BYTES:
        raise RotationRefused("this is no proof; copy the line that keys rotate printed on the other machine")
    iv, rest = data[:iv_bytes], data[iv_bytes:]
    return KeyProof(None, Sealed(iv, rest[:_CANARY_BYTES], rest[_CANARY_BYTES:]))

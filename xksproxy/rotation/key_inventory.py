"""The keys on the HSMs of a key store during a rotation: which HSM has which key, and whether the keys are the same."""

import base64
import binascii
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from xksproxy.hsm.keys import CANARY_BYTES, KeyFingerprint, Sealed
from xksproxy.rotation.errors import RotationRefused, VersionUnusable
from xksproxy.spec.limits import IV_BYTES, TAG_BYTES

_POLL_SECONDS: Final = 0.5
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}")


class KeyInventory:
    """The keys on all HSMs of a key store. The HSMs are called directly, by one session each."""

    def __init__(
        self,
        sessions: Mapping[str, HsmSession],
        report: Callable[[str], None] = lambda _text: None,
        created: Callable[[str, str], None] = lambda _hsm, _label: None,
    ) -> None:
        """``sessions`` has one session on each HSM, by HSM id, in the order of the configuration.

        ``report`` is told what takes long; ``created`` is told the HSM and the label of each key that was created.
        """
        self._sessions = sessions
        self._report = report
        self._created = created

    def labels(self) -> dict[str, Counter[str]]:
        """Return the number of keys by each of their names, for each HSM.

        Raises:
            HsmError: an HSM cannot list its keys.
        """
        return {
            hsm: Counter(name for key in session.list_keys() for name in key.names)
            for hsm, session in self._sessions.items()
        }

    def hsms_with(self, label: str) -> list[str]:
        """Return the ids of the HSMs that have a key with this label.

        Raises:
            RotationRefused: an HSM has several keys with this label.
            HsmError: an HSM cannot list its keys.
        """
        counts = {hsm: labels[label] for hsm, labels in self.labels().items()}
        for hsm, count in counts.items():
            if count > 1:
                raise VersionUnusable(
                    f"{hsm} has {count} keys with the label {label}, expected one",
                    "remove all but one with the vendor's tools; none of them has been in use",
                )
        return [hsm for hsm, count in counts.items() if count]

    def create_key(self, label: str, default_label: str, *, extractable: bool) -> None:
        """Create an AES-256 key on the first HSM. If its name is a CKA_ID alone, it gets the default label.

        Raises:
            HsmError: the HSM cannot create it.
        """
        hsm, session = next(iter(self._sessions.items()))
        session.create_key(
            label, bits=256, encrypt=True, decrypt=True, extractable=extractable, default_label=default_label
        )
        self._created(hsm, label)

    def hsms_without(self, label: str) -> list[str]:
        """Return the ids of the HSMs that have no key with this label; it raises as :meth:`hsms_with` does."""
        present = self.hsms_with(label)
        return [hsm for hsm in self._sessions if hsm not in present]

    def wait_for_replication(self, label: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until all HSMs have the key, at most ``seconds``.

        Raises:
            RotationRefused: an HSM does not have the key after this time, or has several with this label.
            HsmError: an HSM cannot list its keys.
        """
        end, reported = time.monotonic() + seconds, False
        while absent := self.hsms_without(label):
            if not reported:
                self._report(
                    f"waiting up to {seconds:g} s until the key {label} has been replicated to {', '.join(absent)}"
                )
                reported = True
            if time.monotonic() >= end:
                raise RotationRefused(
                    f"the key {label} has not reached {', '.join(absent)} within {seconds:g} s",
                    "run the same command again when the HSMs have replicated it; the key is not created twice",
                    "HSMs that do not replicate need --copy-with from the start: run it with --abandon, then again with"
                    " --copy-with; see docs/key-versions.md",
                )
            sleep(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))

    def copy_to_missing(self, label: str, wrapping_label: str) -> list[str]:
        """Copy the key in wrapped form to the HSMs that do not have it, and return their ids.

        Raises:
            RotationRefused: a token cannot wrap or unwrap the key.
            HsmError: an HSM does not answer.
        """
        sources = self.hsms_with(label)
        source = next((hsm for hsm in sources if self._sessions[hsm].describe_key(label).extractable), sources[0])
        targets = self.hsms_without(label)
        for hsm in targets:
            try:
                copy_key(self._sessions[source], self._sessions[hsm], label, wrapping_label)
            except (KeyAmbiguous, KeyMissing, KeyRefusesUse, TokenUnavailable) as error:
                raise RotationRefused(
                    f"the key {label} cannot be copied from {source} to {hsm}: {error}",
                    f"a key that was created without --copy-with cannot leave {source}; see docs/key-versions.md",
                    "the key may still be extractable; run the same command again, or end this rotation and forbid its"
                    " extraction: xksproxy keys rotate ID --abandon",
                ) from error
        return targets

    def forbid_extraction(self, label: str) -> None:
        """Set CKA_EXTRACTABLE of the key to false on every HSM that has it.

        Raises:
            HsmError: an HSM refuses the change.
        """
        for hsm in self.hsms_with(label):
            forbid_extraction(self._sessions[hsm], label)

    def make_fingerprint(self, label: str) -> KeyFingerprint:
        """Return a fingerprint of the key on the first HSM. It always has a canary.

        Raises:
            RotationRefused: the key is not an AES-256 key that may encrypt and decrypt.
            HsmError: the HSM does not answer.
        """
        hsm, session = next(iter(self._sessions.items()))
        _require_aes_256(hsm, session, label)
        with _failure_of_the_key(hsm, session, label):
            fingerprint = session.make_fingerprint(label)
        if fingerprint.canary is None:
            raise VersionUnusable(f"the key {label} on {hsm} is not an AES-256 key that may encrypt and decrypt")
        return fingerprint

    def verify(self, label: str, fingerprint: KeyFingerprint) -> None:
        """Verify that every HSM has the key of a fingerprint and can use it: each decrypts the canary.

        Raises:
            RotationRefused: an HSM has another key, or its key may not encrypt and decrypt.
            HsmError: an HSM does not answer.
        """
        assert fingerprint.canary is not None  # noqa: S101 - make_fingerprint and fingerprint_from_text give one
        for hsm, session in self._sessions.items():
            _require_aes_256(hsm, session, label)
            try:
                session.verify_key(label, fingerprint)
                session.decrypt(label, fingerprint.canary, b"")
            except (KeyDiffers, CiphertextRejected, KeyRefusesUse) as error:
                raise VersionUnusable(
                    f"{hsm} has another key with the label {label}: its value does not match the fingerprint",
                    "the version does not become primary; find out which key is the right one before you delete a key",
                ) from error


@contextmanager
def _failure_of_the_key(hsm: str, session: HsmSession, label: str) -> Iterator[None]:
    """Raise VersionUnusable for a failure while the HSM works, as of a key whose making was cut off by a crash."""
    try:
        yield
    except TokenUnavailable as error:
        session.self_test()
        raise VersionUnusable(
            f"the key {label} on {hsm} cannot be used although the HSM works: {error}",
            "the next rotation makes another one; remove this key with the vendor's tools: it has encrypted no data",
        ) from error


def _require_aes_256(hsm: str, session: HsmSession, label: str) -> None:
    description = session.describe_key(label)
    if not (description.is_aes_256 and description.can_encrypt and description.can_decrypt):
        raise VersionUnusable(f"the key {label} on {hsm} is not an AES-256 key that may encrypt and decrypt")


def fingerprint_to_text(number: int, fingerprint: KeyFingerprint) -> str:
    """Write version number and canary as text for ``--proof`` on another machine. It does not disclose the key."""
    canary = fingerprint.canary
    if canary is None:
        raise ValueError("the fingerprint has no canary")
    return f"{number}:{base64.b64encode(canary.iv + canary.ciphertext + canary.tag).decode('ascii')}"


def fingerprint_from_text(text: str) -> tuple[int, KeyFingerprint]:
    """Read version number and fingerprint from the text of :func:`fingerprint_to_text`.

    Raises:
        RotationRefused: the text is not such a text.
    """
    number, _, canary = text.partition(":")
    try:
        data = base64.b64decode(canary, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    iv_bytes = len(data) - CANARY_BYTES - TAG_BYTES
    if iv_bytes not in IV_BYTES or not _NUMBER.fullmatch(number) or int(number) > MAXIMUM_VERSION:
        raise RotationRefused(
            "the value of --proof is not valid", "copy the whole line that keys rotate printed on the other machine"
        )
    iv, rest = data[:iv_bytes], data[iv_bytes:]
    return int(number), KeyFingerprint(None, Sealed(iv, rest[:CANARY_BYTES], rest[CANARY_BYTES:]))

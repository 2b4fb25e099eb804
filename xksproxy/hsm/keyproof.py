"""Proof that a label means the same key on every HSM: two tokens asked to generate make two different keys."""

import logging
import os
import time
from collections.abc import Sequence
from typing import Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    CiphertextRejected,
    DeadlinePassed,
    HsmBusy,
    HsmError,
    KeyDiffers,
    KeyMissing,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.instance import Instance
from xksproxy.hsm.keyrecords import KeyRecords

_log: Final = logging.getLogger(__name__)
_DISTRUST_SECONDS: Final = 15.0
_PROOF_BYTES: Final = 16
_UNREACHABLE: Final = (TokenUnavailable, SessionLost, HsmBusy, DeadlinePassed)


class KeyProofs:
    """Which instances of a key store may serve which label. Belongs to one event loop.

    The key that was used first under a label is the right one. Where tokens tell a check value (CKA_CHECK_VALUE), it is
    on record, each call carries it, and a session whose key has another refuses. Where they do not, a ciphertext of
    another instance must decrypt first.
    """

    def __init__(self, records: KeyRecords, instances: Sequence[Instance]) -> None:
        self._records = records
        self._instances = instances
        self._decrypts: set[tuple[str, str]] = set()
        """Label and instance: a decryption of another's ciphertext has been seen to work."""
        self._distrusted: dict[tuple[str, str], float] = {}
        """Label and instance, with the monotonic time until when it gets no calls for that label."""

    def trusted(self, label: str, instance: Instance) -> bool:
        """Whether the instance may be asked for the label."""
        return self._distrusted.get((label, instance.id), 0.0) <= time.monotonic()

    def distrust(self, label: str, instance: Instance, reason: str) -> None:
        """Keep the label away from the instance for 15 s, and say so; after that it is proven anew."""
        self._distrusted[label, instance.id] = time.monotonic() + _DISTRUST_SECONDS
        fields = {"hsm": instance.id, "label": label, "reason": reason}
        _log.error("key out of service on an HSM", extra={"fields": fields})

    def odd_keys(self, instance: Instance) -> list[str]:
        """The labels that the instance may not serve at present."""
        now = time.monotonic()
        return sorted(label for (label, hsm), until in self._distrusted.items() if hsm == instance.id and until > now)

    def agrees(self, label: str, check_value: bytes | None) -> bool:
        """Whether a check value that an HSM told is the one on record, as far as there is anything to compare."""
        known = self._records.get(label)
        return not known or check_value is None or check_value.hex() == known

    async def check_value(self, label: str, instance: Instance, deadline: Deadline) -> bytes | None:
        """The check value that the key must have on the instance; None where there is nothing to compare.

        Raises:
            KeyMissing: no HSM that could be asked has a key of this label.
            KeyDiffers: the instance does not decrypt what another encrypted.
            HsmError: an HSM could not be asked.
        """
        if len(self._instances) == 1:
            return None
        known = self._records.get(label)
        if known is None:
            known = self._records.propose(label, await self._first_told(label, instance, deadline))
        if not known:
            await self._decrypt_across(label, instance, deadline)
        return bytes.fromhex(known) or None

    async def adopt_if_unanimous(self, label: str, deadline: Deadline) -> bool:
        """Take a new key for right if every HSM serves and all tell the same new check value.

        That is what a key looks like which its owners replaced on purpose, under its old label.
        """
        known = self._records.get(label)
        if known is None or not all(instance.serving for instance in self._instances):
            return False
        told = {await self._told(label, instance, deadline) for instance in self._instances}
        new = told.pop()
        if told or new in (known, ""):
            return False
        _log.warning("key replaced on every HSM", extra={"fields": {"label": label}})
        self._records.replace(label, known, new)
        self._distrusted = {pair: until for pair, until in self._distrusted.items() if pair[0] != label}
        return True

    async def _first_told(self, label: str, chosen: Instance, deadline: Deadline) -> str:
        """The check value on the first HSM of the configuration that serves and has the key; empty if it tells none."""
        failure: HsmError | None = None
        for instance in (*self._instances, chosen):
            if not instance.serving:
                continue
            try:
                return await self._told(label, instance, deadline.share(1 / len(self._instances)))
            except KeyMissing as error:
                failure = failure or error
            except _UNREACHABLE as error:
                failure = error
        raise failure or TokenUnavailable("no HSM serves")

    @staticmethod
    async def _told(label: str, instance: Instance, deadline: Deadline) -> str:
        description = await instance.call(lambda session: session.describe_key(label), deadline)
        return (description.check_value or b"").hex()

    async def _decrypt_across(self, label: str, instance: Instance, deadline: Deadline) -> None:
        others = [item for item in self._instances if item.serving and item is not instance]
        if (label, instance.id) in self._decrypts or not others:
            return
        text = os.urandom(_PROOF_BYTES)
        sealed = await others[0].call(lambda session: session.encrypt(label, text, b""), deadline)
        try:
            opened = await instance.call(lambda session: session.decrypt(label, sealed, b""), deadline)
        except CiphertextRejected as error:
            raise KeyDiffers(f"it does not decrypt what {others[0].id} encrypted under this label") from error
        if opened != text:
            raise TokenUnavailable("a decryption of another HSM's ciphertext gave another text")
        self._decrypts.update({(label, instance.id), (label, others[0].id)})

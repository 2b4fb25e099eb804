"""Ensures that a label names the same key on every HSM. Tokens that each generate a key have different keys."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import DeadlinePassed, HsmBusy, HsmError, KeyMissing, SessionLost, TokenUnavailable
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.keys import KeyFingerprint

_log: Final = logging.getLogger(__name__)
_DISTRUST_SECONDS: Final = 15.0
_MAKING_SECONDS: Final = 20.0
_UNREACHABLE: Final = (TokenUnavailable, SessionLost, HsmBusy, DeadlinePassed)


class KeyIdentity:
    """Decides which instances of a key store may serve which label. Belongs to one event loop.

    The key that was used first under a label is the right one. Its fingerprint is on record and goes with each call. A
    session whose key does not match it refuses the call; see :mod:`xksproxy.hsm.instance.fingerprint_check`.
    """

    def __init__(self, records: FingerprintRecords, instances: Sequence[Instance]) -> None:
        self._records = records
        self._instances = instances
        self._distrusted: dict[tuple[str, str], float] = {}
        """By label and instance: the monotonic time until which the instance gets no calls for the label."""
        self._making: dict[str, asyncio.Task[KeyFingerprint]] = {}
        self._proposed: dict[str, KeyFingerprint] = {}
        """Fingerprints that are made and not recorded yet."""
        self._recording = asyncio.Lock()

    def trusted(self, label: str, instance: Instance) -> bool:
        """Whether the instance may get calls for the label."""
        until = self._distrusted.get((label, instance.id)) if self._distrusted else None
        return until is None or until <= time.monotonic()

    def distrust(self, label: str, instance: Instance, reason: str) -> None:
        """Send no calls for the label to the instance for 15 s, and log the reason. Then the key is compared again."""
        self._distrusted[label, instance.id] = time.monotonic() + _DISTRUST_SECONDS
        fields = {"hsm": instance.id, "label": label, "reason": reason}
        _log.error("key out of service on an HSM", extra={"fields": fields})

    def refused_keys(self, instance: Instance) -> list[str]:
        """The labels for which the instance gets no calls at present."""
        now = time.monotonic()
        return sorted(
            label for (label, hsm), until in list(self._distrusted.items()) if hsm == instance.id and until > now
        )

    def agrees(self, label: str, check_value: bytes | None) -> bool:
        """Whether a check value matches the one on record; true if one of them is missing."""
        known = self._records.get(label)
        return known is None or None in (known.check_value, check_value) or known.check_value == check_value

    @property
    def revision(self) -> int:
        """The revision of the record of fingerprints."""
        return self._records.revision

    def on_record(self, label: str) -> bool:
        """Whether the label has a fingerprint."""
        return self._records.get(label) is not None

    def could_do_both(self, label: str) -> bool:
        """Whether the key of a label could encrypt and decrypt when its fingerprint was made."""
        known = self._records.get(label)
        return known is not None and known.canary is not None

    async def fingerprint(self, label: str, deadline: Deadline) -> KeyFingerprint:
        """The fingerprint that a session's key must match. The first use of a label makes it.

        It is made once for all requests that wait for it, within 20 s. A failure does not change the health of an HSM.

        Raises:
            KeyMissing: the HSMs that answered have no key with this label.
            HsmBusy: it is not made by the deadline; the work continues.
            HsmError: no HSM answered.
        """
        known = self._records.get(label)
        if known is not None:
            return known
        task = self._making.get(label)
        if task is None:
            task = self._making[label] = asyncio.create_task(self._establish(label))
            task.add_done_callback(lambda _: self._making.pop(label, None))
        done, _ = await asyncio.wait({task}, timeout=deadline.remaining())
        if not done:
            raise HsmBusy("the key is used for the first time, and its fingerprint is still being made")
        return task.result()

    async def _establish(self, label: str) -> KeyFingerprint:
        """Make the fingerprint of a label and record it; those of several labels are recorded together."""
        deadline = Deadline.after(_MAKING_SECONDS)
        self._proposed[label] = await self._fingerprint_of_first_hsm(label, deadline)
        async with self._recording:
            if label in self._proposed:
                proposed, self._proposed = self._proposed, {}
                await asyncio.to_thread(self._records.propose_all, proposed)
        known = self._records.get(label)
        if known is None:
            raise TokenUnavailable("the fingerprint of the key could not be recorded")
        return known

    async def adopt_if_unanimous(self, label: str, deadline: Deadline) -> bool:
        """Record a new key if every HSM serves, none of them matches the record, and all have the same key.

        Then the owners have replaced the key on purpose. Returns whether the new key was recorded. On a single HSM
        nothing confirms a new key, so it is refused.
        """
        if len(self._instances) == 1:
            return False
        known = self._records.get(label)
        if known is None or not all(instance.serving for instance in self._instances):
            return False
        if any(self.trusted(label, instance) for instance in self._instances):
            return False
        first, *others = self._instances
        new = await self._make_fingerprint(label, first, deadline)
        for instance in others:
            await instance.call_unobserved(lambda session: session.verify_key(label, new), deadline)
        _log.warning("key replaced on every HSM", extra={"fields": {"label": label}})
        await asyncio.to_thread(self._records.replace, label, known, new)
        self._distrusted = {pair: until for pair, until in self._distrusted.items() if pair[0] != label}
        return True

    async def _fingerprint_of_first_hsm(self, label: str, deadline: Deadline) -> KeyFingerprint:
        """The fingerprint of the key on the first HSM, in the order of the configuration, that serves and has it."""
        failure: HsmError | None = None
        for instance in self._instances:
            if not instance.serving:
                continue
            try:
                share = deadline.share(1 / len(self._instances))
                return await self._make_fingerprint(label, instance, share)
            except KeyMissing as error:
                failure = failure or error
            except _UNREACHABLE as error:
                failure = error
        raise failure or TokenUnavailable("no HSM serves")

    @staticmethod
    async def _make_fingerprint(label: str, instance: Instance, deadline: Deadline) -> KeyFingerprint:
        return await instance.call_unobserved(lambda session: session.make_fingerprint(label), deadline)

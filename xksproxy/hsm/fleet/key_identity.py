"""Proof that a label means the same key on every HSM: two tokens asked to generate make two different keys."""

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
_UNREACHABLE: Final = (TokenUnavailable, SessionLost, HsmBusy, DeadlinePassed)


class KeyIdentity:
    """Which instances of a key store may serve which label. Belongs to one event loop.

    The key that was used first under a label is the right one. Its fingerprint is on record and goes with each call, and a
    session whose key does not fit it refuses; see :class:`xksproxy.hsm.instance.session.KeyFingerprint`.
    """

    def __init__(self, records: FingerprintRecords, instances: Sequence[Instance]) -> None:
        self._records = records
        self._instances = instances
        self._distrusted: dict[tuple[str, str], float] = {}
        """Label and instance, with the monotonic time until when it gets no calls for that label."""

    def trusted(self, label: str, instance: Instance) -> bool:
        """Whether the instance may be asked for the label."""
        until = self._distrusted.get((label, instance.id)) if self._distrusted else None
        return until is None or until <= time.monotonic()

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
        return known is None or None in (known.check_value, check_value) or known.check_value == check_value

    async def fingerprint(self, label: str, deadline: Deadline) -> KeyFingerprint | None:
        """What a session must hold its key against; None where there is only one HSM.

        Raises:
            KeyMissing: no HSM that could be asked has a key of this label.
            HsmError: no HSM could be asked.
        """
        if len(self._instances) == 1:
            return None
        known = self._records.get(label)
        if known is None:
            first = await self._first_made(label, deadline)
            known = await asyncio.to_thread(self._records.propose, label, first)
        return known

    async def adopt_if_unanimous(self, label: str, deadline: Deadline) -> bool:
        """Take a new key for right if every HSM serves, none fits the record, and all fit one another.

        That is what a key looks like which its owners replaced on purpose, under its old label.
        """
        known = self._records.get(label)
        if known is None or not all(instance.serving for instance in self._instances):
            return False
        if any(self.trusted(label, instance) for instance in self._instances):
            return False
        first, *others = self._instances
        new = await self._made(label, first, deadline)
        for instance in others:
            await instance.call(lambda session: session.verify_key(label, new), deadline)
        _log.warning("key replaced on every HSM", extra={"fields": {"label": label}})
        await asyncio.to_thread(self._records.replace, label, known, new)
        self._distrusted = {pair: until for pair, until in self._distrusted.items() if pair[0] != label}
        return True

    async def _first_made(self, label: str, deadline: Deadline) -> KeyFingerprint:
        """The fingerprint of the key on the first HSM of the configuration that serves and has it."""
        failure: HsmError | None = None
        for instance in self._instances:
            if not instance.serving:
                continue
            try:
                return await self._made(label, instance, deadline.share(1 / len(self._instances)))
            except KeyMissing as error:
                failure = failure or error
            except _UNREACHABLE as error:
                failure = error
        raise failure or TokenUnavailable("no HSM serves")

    @staticmethod
    async def _made(label: str, instance: Instance, deadline: Deadline) -> KeyFingerprint:
        return await instance.call(lambda session: session.make_fingerprint(label), deadline)

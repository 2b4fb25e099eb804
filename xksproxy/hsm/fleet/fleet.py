"""The HSMs of a key store, which hold the same keys: choice of an HSM, failover and hedged calls."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    DeadlinePassed,
    HsmBusy,
    HsmError,
    HsmThrottled,
    KeyAmbiguous,
    KeyDiffers,
    KeyMissing,
    KeyRefusesUse,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.fleet.key_comparison import KeyComparison, KeyProblems
from xksproxy.hsm.fleet.key_identity import KeyIdentity
from xksproxy.hsm.fleet.key_searches import KeySearches
from xksproxy.hsm.fleet.outcomes import first_answer, more_severe
from xksproxy.hsm.instance.gcm_requests import Decryption, Encryption, VerifiedEncryption
from xksproxy.hsm.instance.health import InstanceHealth, health_of
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.shares import OWN_SHARE, Share
from xksproxy.hsm.keys import KeyDescription, KeyFingerprint, Sealed, TokenKey

_log: Final = logging.getLogger(__name__)

_BUDGET_SHARE: Final = 0.5
"""The share of the remaining time that an attempt may use while another instance can be tried."""

_FINGERPRINT_SECONDS: Final = 20.0

_FAST_SECONDS: Final = 0.001
"""HSMs that need less than twice this time for a call count as equally fast."""

_TIME_FACTOR: Final = 1.5
"""An attempt may take its expected time, multiplied by this factor."""

_LEAST_SECONDS: Final = 0.02
"""No further attempt is made if less time than this is left."""

_BUSY_PAUSE_SECONDS: Final = (0.003, 0.012)

Result = TypeVar("Result")
Attempt = Callable[[Instance, KeyFingerprint | None, Deadline], Awaitable[Result]]
"""A request to one instance, with the fingerprint of the key and the deadline."""

_FAILOVER_AFTER: Final = (
    *(TokenUnavailable, SessionLost, DeadlinePassed, HsmBusy),
    *(KeyMissing, KeyAmbiguous, KeyDiffers, KeyRefusesUse),
)
"""The failures after which another instance is tried."""


class Fleet:
    """The instances of one key store, in the order of its configuration. Its methods are called on the event loop.

    A call goes to the serving instance with the least work. If the instance fails, the next one is tried while there is
    time. Every call is safe to repeat.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        records: FingerprintRecords,
        exposes: Callable[[str], bool],
        named: Callable[[], Iterable[str]] = tuple,
        *,
        encrypts: Callable[[str], bool] = lambda _label: True,
        unrecorded: Callable[[str], bool] = lambda _label: False,
        share: Share = OWN_SHARE,
        revision: Callable[[], object] = lambda: None,
    ) -> None:
        """``exposes`` says whether the key store exposes a label; only such labels count as missing.

        ``named`` returns the labels that the key store needs on each HSM, whether or not another one has them.
        ``encrypts`` says whether the key of a label has to encrypt, ``unrecorded`` whether a label is that of a later
        version than there is a record of. ``revision`` changes when there may be new keys.
        """
        self.share = share
        """The key store's part of each HSM."""
        self._instances: Sequence[Instance] = tuple(instances)
        self._identity = KeyIdentity(records, self._instances)
        self._revision = revision
        self._comparison = KeyComparison(
            self._instances,
            self._identity,
            exposes,
            named,
            encrypts=encrypts,
            unrecorded=unrecorded,
            revision=revision,
        )
        self._searches = KeySearches(self._instances, self._as_of)
        self._required: tuple[str, ...] = ()
        self._fingerprinting: asyncio.Task[None] | None = None
        self._fingerprinting_since = 0.0

    def _as_of(self) -> object:
        """Another value when there may be new keys."""
        return self._identity.revision, self._revision()

    @property
    def instances(self) -> Sequence[Instance]:
        """All instances, also those that do not serve."""
        return self._instances

    @property
    def ready(self) -> bool:
        """Whether an instance serves and the keys of :meth:`require_fingerprints` have their fingerprints."""
        return not self._required and any(instance.serving for instance in self._instances)

    @property
    def fingerprinting_seconds(self) -> float:
        """For how long the fingerprints have been made without which it is not ready; 0 if none are being made."""
        since = self._fingerprinting_since
        return time.monotonic() - since if self._required and since else 0.0

    def require_fingerprints(self, labels: Iterable[str]) -> None:
        """Report ready only after the fingerprints of these keys are on record.

        A key that is missing or unusable is skipped. If an instance has served before, the fleet does not wait.
        """
        if not any(instance.returns for instance in self._instances):
            self._required = tuple(label for label in labels if not self._identity.on_record(label))
            for instance in self._instances:
                instance.when_in_service.append(self._begin_fingerprints)

    def _begin_fingerprints(self) -> None:
        if self._required and (self._fingerprinting is None or self._fingerprinting.done()):
            self._fingerprinting_since = self._fingerprinting_since or time.monotonic()
            self._fingerprinting = asyncio.create_task(self._make_required_fingerprints())

    async def _make_required_fingerprints(self) -> None:
        for label in self._required:
            try:
                await self._identity.fingerprint(label, Deadline.after(_FINGERPRINT_SECONDS))
            except HsmError as error:
                _log.warning("key not proven", extra={"fields": {"label": label, "reason": str(error)}})
        self._required = ()

    def health(self) -> list[InstanceHealth]:
        """The health of each instance, from background checks."""
        return [
            health_of(item.instance, refused_keys=len(item.refused), missing_keys=len(item.missing))
            for item in self.key_problems()
        ]

    def key_problems(self) -> Sequence[KeyProblems]:
        """What is wrong with the keys of each instance."""
        return self._comparison.problems()

    async def encrypt(self, key: TokenKey, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        """Encrypt with AES-256-GCM under a key; see :meth:`HsmSession.encrypt`."""

        def attempt(instance: Instance, fingerprint: KeyFingerprint | None, budget: Deadline) -> Awaitable[Sealed]:
            return instance.call(
                Encryption(key.label, plaintext, aad, fingerprint, key.maximum_encryptions), budget, self.share
            )

        return await self._hedged(key, Encryption.calls, attempt, deadline)

    async def encrypt_verified(
        self, key: TokenKey, plaintext: bytes, aad: bytes, integrity_prefix: bytes, deadline: Deadline
    ) -> tuple[Sealed, bytes]:
        """:meth:`encrypt` with an integrity value and a trial decrypt; see :class:`VerifiedEncryption`."""

        def attempt(
            instance: Instance, fingerprint: KeyFingerprint | None, budget: Deadline
        ) -> Awaitable[tuple[Sealed, bytes]]:
            encryption = Encryption(key.label, plaintext, aad, fingerprint, key.maximum_encryptions)
            return instance.call(VerifiedEncryption(encryption, integrity_prefix), budget, self.share)

        return await self._hedged(key, VerifiedEncryption.calls, attempt, deadline)

    async def decrypt(self, key: TokenKey, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        """The inverse of :meth:`encrypt`; see :meth:`HsmSession.decrypt`."""

        def attempt(instance: Instance, fingerprint: KeyFingerprint | None, budget: Deadline) -> Awaitable[bytes]:
            return instance.call(Decryption(key.label, sealed, aad, fingerprint), budget, self.share)

        return await self._hedged(key, Decryption.calls, attempt, deadline)

    def forget_missing_keys(self) -> None:
        """Forget which keys are missing. May be called on any thread."""
        self._searches.forget_missing()

    def has_seen(self, label: str) -> bool:
        """Whether the last listing of an instance has a key with this label."""
        return any(label in instance.keys.labels for instance in self._instances)

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """The description of a key, read now from a serving instance; see :meth:`HsmSession.read_key`."""

        def attempt(instance: Instance, _: KeyFingerprint | None, budget: Deadline) -> Awaitable[KeyDescription]:
            return instance.call(lambda session: session.read_key(label), budget, self.share)

        return await self._anywhere(label, 1, attempt, deadline, set())

    async def _hedged(self, key: TokenKey, calls: int, attempt: Attempt[Result], deadline: Deadline) -> Result:
        """Make a request of ``calls`` calls. If it is slow, another instance makes it too; the first answer counts."""
        label, used = key.label, set[str]()
        if key.hedge_after is None or len(self._instances) == 1:
            return await self._anywhere(label, calls, attempt, deadline, used)
        first = asyncio.create_task(self._anywhere(label, calls, attempt, deadline, used))
        done, _ = await asyncio.wait({first}, timeout=key.hedge_after)
        if done or self._choose(label, used) is None:
            return await first
        second = asyncio.create_task(self._anywhere(label, calls, attempt, deadline, set(used)))
        return await first_answer(first, second)

    async def _anywhere(
        self, label: str, calls: int, attempt: Attempt[Result], deadline: Deadline, used: set[str]
    ) -> Result:
        """Make a request on any instance, unless the key is known to be missing or there is no time for a search."""
        if self._searches.is_known(label):
            return await self._try_and_note(label, calls, attempt, deadline, used)
        async with self._searches.searching(label, deadline):
            return await self._try_and_note(label, calls, attempt, deadline, used)

    async def _try_and_note(
        self, label: str, calls: int, attempt: Attempt[Result], deadline: Deadline, used: set[str]
    ) -> Result:
        try:
            return await self._try_each(label, calls, attempt, deadline, used)
        except (KeyMissing, KeyAmbiguous) as error:
            self._searches.note_missing(label, error)
            raise

    async def _try_each(
        self, label: str, calls: int, attempt: Attempt[Result], deadline: Deadline, used: set[str]
    ) -> Result:
        """Try one instance after another until one answers, no instance is left, or the deadline is near.

        After an error of one, an instance that is busy is tried again: it is the only one that can answer.
        """
        failure: HsmError | None = None
        busy = False
        while True:
            instance = self._choose(label, used)
            if instance is None:
                if isinstance(failure, KeyDiffers) and await self._adopt(label, deadline):
                    used.clear()
                    failure = None
                    continue
                throttled = isinstance(failure, HsmThrottled)
                if (throttled or (busy and not isinstance(failure, HsmBusy))) and deadline.remaining() > _LEAST_SECONDS:
                    await asyncio.sleep(random.uniform(*_BUSY_PAUSE_SECONDS))  # noqa: S311 - jitter
                    used.clear()
                    failure, busy = None if throttled else failure, False
                    continue
                raise self._final_error(failure)
            used.add(instance.id)
            # After a failure it is tried even if its last calls were slow: it may be faster again.
            only_busy = isinstance(failure, HsmBusy) and not isinstance(failure, HsmThrottled)
            is_slow = only_busy and not instance.may_be_faster
            if is_slow and instance.expected_seconds(self.share, calls) > deadline.remaining():
                continue
            others_left = len(self._instances) > 1 and self._choose(label, used) is not None
            budget = self._budget(instance, calls, deadline) if others_left else deadline
            try:
                if label in instance.keys.ambiguous:
                    # A session may have the handle of one of them; a search shows whether there are still several.
                    await instance.call(lambda session: session.describe_key(label), budget, self.share)
                fingerprint = await self._identity.fingerprint(label, budget)
                return await attempt(instance, fingerprint, budget)
            except _FAILOVER_AFTER as error:
                failure = more_severe(failure, error)
                busy = busy or isinstance(error, HsmBusy)
                if isinstance(error, KeyDiffers):
                    self._identity.distrust(label, instance, str(error))
                if deadline.remaining() < _LEAST_SECONDS:
                    raise self._final_error(failure) from error

    async def _adopt(self, label: str, deadline: Deadline) -> bool:
        """Record the new key if every HSM has one; return whether that was done."""
        try:
            return await self._identity.adopt_if_unanimous(label, deadline)
        except HsmError:
            return False

    def _choose(self, label: str, used: set[str]) -> Instance | None:
        """The serving instance with the least work, among those that may serve the key and are not in ``used``."""
        candidates = [
            instance
            for instance in self._instances
            if instance.serving and instance.id not in used and self._identity.trusted(label, instance)
        ]
        if len(candidates) < 2:  # noqa: PLR2004 - nothing to choose
            return candidates[0] if candidates else None
        return min(
            candidates,
            key=lambda item: (label in item.keys.ambiguous, item.troubled, self._speed_class(item), item.load),
        )

    def _speed_class(self, instance: Instance) -> int:
        """How slow an instance is. Each class takes twice as long as the one before; below 2 ms all are equal."""
        return max(1, int(instance.likely_seconds(self.share) / _FAST_SECONDS)).bit_length()

    def _budget(self, instance: Instance, calls: int, deadline: Deadline) -> Deadline:
        """Half of the remaining time; more if ``calls`` calls need more, and can be made in the remaining time."""
        remaining = deadline.remaining()
        half, expected = _BUDGET_SHARE * remaining, instance.expected_seconds(self.share, calls)
        return Deadline.after(half if expected > remaining else min(remaining, max(half, _TIME_FACTOR * expected)))

    def _final_error(self, failure: HsmError | None) -> HsmError:
        """The error of a request that no instance answered. A key counts as missing only if every instance serves."""
        if failure is None and any(instance.serving for instance in self._instances):
            return KeyDiffers(
                "no HSM in service has the key that was first used under this label; if it was replaced on purpose, see"
                " xksproxy keys accept"
            )
        if failure is None:
            reasons = "; ".join(f"{item.id}: {item.reason or item.state.value}" for item in self._instances)
            return TokenUnavailable(f"no HSM serves this key ({reasons})")
        if isinstance(failure, KeyMissing) and not all(instance.serving for instance in self._instances):
            return TokenUnavailable("the HSMs in service do not have the key, and others are out of service")
        return failure

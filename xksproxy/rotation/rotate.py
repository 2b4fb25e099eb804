"""The steps of a rotation. After a crash at any step, the next run continues from there."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from xksproxy.config.key_names import version_label
from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.rotation.errors import RotationRefused, VersionUnusable
from xksproxy.rotation.key_inventory import KeyInventory
from xksproxy.rotation.version_states import VersionState, state_of
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import OF_ALL_KEYS, VersionRecord


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a new key reaches the other HSMs."""

    wait_seconds: float
    """The time limit for replication by the HSMs."""

    wrapping_label: str | None = None
    """The label of a wrapping key on all HSMs. If it is given, the key is copied in wrapped form."""


@dataclass(frozen=True, slots=True)
class VersionFingerprint:
    """Identifies the key value of a version, also on other machines."""

    number: int
    key: KeyFingerprint


@dataclass(frozen=True, slots=True)
class PreparedVersion:
    """A version that every HSM of this machine has and can decrypt with."""

    number: int
    label: str
    created: bool
    """Whether this run created the key."""

    fingerprint: VersionFingerprint


class Rotation:
    """The rotation of one external key. The caller must hold the lock :data:`KEY_MAKING`."""

    def __init__(
        self,
        key: ExternalKey,
        keys: KeyMap,
        inventory: KeyInventory,
        versions: SharedTable[VersionRecord],
        fingerprints: FingerprintRecords,
        *,
        usage: UsageBook,
    ) -> None:
        self._key = key
        self._keys = keys
        self._inventory = inventory
        self._versions = versions
        self._fingerprints = fingerprints
        self._usage = usage

    def record(self) -> VersionRecord:
        """Read the version record of the key.

        Raises:
            StateUnusable: the record cannot be read.
        """
        self._versions.refresh()
        record = self._versions.get(self._key.id) or VersionRecord(self._key.first_version)
        of_all = self._versions.get(OF_ALL_KEYS)
        return record if of_all is None else replace(record, highest=max(record.highest, of_all.highest))

    def prepare(
        self, wanted: int | None, distribution: Distribution, other_machine: VersionFingerprint | None = None
    ) -> PreparedVersion:
        """The first phase: verify that every HSM has the same key of the next version, which does not encrypt yet.

        ``wanted`` is an existing version to use instead of the next one. ``other_machine`` is the fingerprint of a
        version that another machine prepared. A key is created only if both are None.

        Raises:
            RotationRefused: the version cannot be prepared; see the hints.
            HsmError: an HSM does not answer.
            StateUnusable: the state directory cannot be used.
        """
        number = self._version_to_prepare(wanted, other_machine)
        label = self._label_of(number)
        if other_machine is None:
            self._require_usable(number, label, self.record())
        try:
            return self._prepare(number, label, distribution, wanted, other_machine)
        except VersionUnusable:
            # Its number is not used again, so the next rotation uses a new version.
            self._change_record(
                lambda record: replace(
                    record,
                    pending=None if record.pending == number else record.pending,
                    highest=max(record.highest, number) if other_machine is None else record.highest,
                )
            )
            raise

    def _prepare(
        self,
        number: int,
        label: str,
        distribution: Distribution,
        wanted: int | None,
        other_machine: VersionFingerprint | None,
    ) -> PreparedVersion:
        may_create = wanted is None and other_machine is None
        created = self._ensure_key_exists(number, label, distribution, may_create=may_create)
        if distribution.wrapping_label is not None:
            self._inventory.copy_to_missing(label, distribution.wrapping_label)
        self._inventory.wait_for_replication(label, distribution.wait_seconds)
        if number in self.record().extractable:
            self._inventory.forbid_extraction(label)
            self._change_record(lambda record: replace(record, extractable=_without(record.extractable, number)))
        # An earlier verification is no longer valid if this one fails.
        self._change_record(lambda record: replace(record, proven=_without(record.proven, number)))
        fingerprint = self._verify_key(label, None if other_machine is None else other_machine.key)
        # Pending only now, so that a refused version does not block the next rotation.
        self._change_record(
            lambda record: replace(record, proven=tuple(sorted({*record.proven, number})), pending=number)
        )
        return PreparedVersion(number, label, created, VersionFingerprint(number, fingerprint))

    def activate(self, prepared: PreparedVersion) -> None:
        """The second phase: make the version primary. Every worker encrypts with it within a second.

        The conditions are checked under the lock of the record, so that no other command can change them meanwhile.

        Raises:
            RotationRefused: the version is disabled, is no longer prepared, or may not encrypt any more.
            StateUnusable: the state directory cannot be written.
        """

        def change(record: VersionRecord) -> VersionRecord:
            if prepared.number not in record.proven:
                raise RotationRefused(f"version {prepared.number} is no longer prepared", "run the rotation again")
            self._require_usable(prepared.number, prepared.label, record)
            highest = max(record.highest, prepared.number)
            return replace(record, primary=prepared.number, pending=None, highest=highest)

        self._change_record(change)

    def abandon(self) -> tuple[int, bool]:
        """End the rotation that was begun or prepared. Returns its version, and whether it was never primary.

        The number of a version that was never primary is not used again. The key stays on the tokens. If it was made
        extractable so that it could be copied, it is made unextractable.

        Raises:
            RotationRefused: no rotation was begun.
            HsmError: an HSM does not answer.
            StateUnusable: the state directory cannot be used.
        """
        record = self.record()
        number = record.pending
        if number is None:
            raise RotationRefused(f"no version of {self._key.id} is begun or prepared on this machine")
        label = self._label_of(number)
        if number in record.extractable:
            self._inventory.forbid_extraction(label)

        is_new = number > max(record.primary, record.highest)

        def change(record: VersionRecord) -> VersionRecord:
            record = replace(record, pending=None, extractable=_without(record.extractable, number))
            if not is_new:
                return record
            proven, highest = _without(record.proven, number), max(record.highest, number)
            abandoned = tuple(sorted({*record.abandoned, number}))
            return replace(record, proven=proven, highest=highest, abandoned=abandoned)

        self._change_record(change)
        return number, is_new

    def _version_to_prepare(self, wanted: int | None, other_machine: VersionFingerprint | None) -> int:
        if other_machine is not None:
            if wanted not in (None, other_machine.number):
                raise RotationRefused(
                    f"--proof is of version {other_machine.number}, but --version is {wanted}",
                    "give only one of the two options",
                )
            return other_machine.number
        return self._next_version() if wanted is None else wanted

    def _next_version(self) -> int:
        """The version above the primary one that an unfinished run has begun, else a new one. Never an older one."""
        record = self.record()
        on_tokens = {
            number
            for labels in self._inventory.labels().values()
            for label in labels
            if (number := self._key.version_of(label)) is not None
        }
        pending = record.pending
        if pending is not None and pending > record.primary and self._may_encrypt(pending, record, on_tokens):
            return pending
        if self._key.listed_versions:
            return self._next_listed_version(record, on_tokens)
        used = {record.primary, pending or 0, record.highest, *on_tokens, *record.proven, *record.disabled}
        return max(used) + 1

    def _next_listed_version(self, record: VersionRecord, on_tokens: set[int]) -> int:
        later = sorted(
            number
            for number in self._key.listed_versions
            if number > record.primary and self._may_encrypt(number, record, on_tokens)
        )
        if not later:
            highest = max(*self._key.listed_versions, record.highest)
            raise RotationRefused(
                f"the configuration lists no version after {record.primary} that may encrypt",
                f"add one to the versions of {self._key.id}, such as {highest + 1} = "
                f'"{self._key.label}-{highest + 1}", and reload the proxy',
            )
        return later[0]

    def _may_encrypt(self, number: int, record: VersionRecord, on_tokens: set[int]) -> bool:
        """Whether a version can become primary. One whose key was removed cannot: its fingerprint is on record."""
        label = self._key.label_of(number)
        if label is None:
            return False
        if number not in on_tokens:
            self._fingerprints.refresh()
            is_new = number > record.highest and self._fingerprints.get(label) is None
            had_key = self._usage.has_record(label) and self._usage.read(label).encryptions > 0
            return is_new and not had_key and number not in record.disabled
        try:
            self._require_usable(number, label, record)
        except RotationRefused:
            return False
        return True

    def _require_usable(self, number: int, label: str, record: VersionRecord) -> None:
        to_new = f"rotate to a new version: xksproxy keys rotate {self._key.id}"
        full = self._usage.read(label).encryptions >= self._key.maximum_encryptions
        match state_of(number, record, exists=True, full=full):
            case VersionState.DISABLED:
                enable = f"enable it first: xksproxy keys enable-version {self._key.id} {number}"
                raise RotationRefused(f"version {number} is disabled", enable, f"or {to_new}")
            case VersionState.ABANDONED:
                raise RotationRefused(f"version {number} was abandoned, and its number is not used again", to_new)
        known = {self._key.first_version, record.primary, record.pending, *record.proven}
        if number not in known and not self._usage.has_record(label):
            if not self._inventory.hsms_with(label):
                return  # its key is made by this rotation
            raise RotationRefused(
                f"the token has version {number}, but this machine has no record of its encryptions, so it is not used",
                to_new,
            )
        if full:
            raise RotationRefused(f"version {number} has reached its maximum number of encryptions", to_new)

    def _label_of(self, number: int) -> str:
        label = self._key.label_of(number)
        if label is None:
            raise RotationRefused(f"the configuration lists no version {number} of {self._key.id}")
        owner = self._keys.key_of_label(label)
        if owner is None or owner.id != self._key.id:
            name = f"the external key {owner.id}" if owner else "no external key"
            raise RotationRefused(
                f"the name {label} of version {number} belongs to {name}, not to {self._key.id}",
                "check the labels and versions of the key store's keys in the configuration",
            )
        return label

    def _ensure_key_exists(self, number: int, label: str, distribution: Distribution, *, may_create: bool) -> bool:
        """Create the key if no HSM has it. All HSMs are searched first. Returns whether the key was created."""
        if self._inventory.hsms_with(label):
            return False
        if not may_create:
            self._inventory.wait_for_replication(label, distribution.wait_seconds)
            return False
        if number <= self.record().primary:
            raise RotationRefused(f"no HSM has version {number} of {self._key.id}, the label {label}")
        self._usage.begin(label)
        is_copied = distribution.wrapping_label is not None
        added = {number} if is_copied else set()
        self._change_record(
            lambda record: replace(record, pending=number, extractable=tuple(sorted({*record.extractable, *added})))
        )
        self._inventory.create_key(label, version_label(self._key.label, number), extractable=is_copied)
        return True

    def _verify_key(self, label: str, other_machine: KeyFingerprint | None) -> KeyFingerprint:
        """Verify the key on every HSM, and record its fingerprint before workers use the key."""
        if other_machine is not None:
            self._inventory.verify(label, other_machine)
        made = self._inventory.make_fingerprint(label)
        recorded = self._fingerprints.propose(label, made)
        if recorded.canary is None:
            raise TokenUnavailable(f"the recorded fingerprint of the key {label} has no canary to verify the key with")
        self._inventory.verify(label, recorded)
        return recorded

    def _change_record(self, change: Callable[[VersionRecord], VersionRecord]) -> None:
        first = VersionRecord(self._key.first_version)
        self._versions.update(self._key.id, lambda record: change(record or first))


def _without(numbers: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(other for other in numbers if other != number)

"""The steps of a rotation. After a crash at any step, the next run continues from there."""

from dataclasses import dataclass

from msgspec.structs import replace

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.rotation.errors import RotationRefused
from xksproxy.rotation.key_inventory import KeyInventory
from xksproxy.state.state_file import SharedTable
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import VersionRecord


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
    """The rotation of one external key. The caller must hold the rotation lock of the key store."""

    def __init__(
        self,
        key: ExternalKey,
        keys: KeyMap,
        inventory: KeyInventory,
        versions: SharedTable[VersionRecord],
        fingerprints: FingerprintRecords,
    ) -> None:
        self._key = key
        self._keys = keys
        self._inventory = inventory
        self._versions = versions
        self._fingerprints = fingerprints

    def record(self) -> VersionRecord:
        """Read the version record of the key.

        Raises:
            StateUnusable: the record cannot be read.
        """
        self._versions.refresh()
        return self._versions.get(self._key.id) or VersionRecord(self._key.first_version)

    def prepare(
        self, wanted: int | None, distribution: Distribution, other_machine: VersionFingerprint | None = None
    ) -> PreparedVersion:
        """The first phase: verify that every HSM has the same key of the next version. It does not encrypt yet.

        ``wanted`` is an existing version to use instead of the next one. ``other_machine`` is the fingerprint of a
        version that another machine prepared. A key is created only if both are None.

        Raises:
            RotationRefused: the version cannot be prepared; see the hints.
            HsmError: an HSM does not answer.
            StateUnusable: the state directory cannot be used.
        """
        number = self._version_to_prepare(wanted, other_machine)
        label = self._label_of(number)
        may_create = wanted is None and other_machine is None
        created = self._ensure_key_exists(number, label, distribution, may_create=may_create)
        if distribution.wrapping_label is not None:
            self._inventory.copy_to_missing(label, distribution.wrapping_label)
        self._inventory.wait_for_replication(label, distribution.wait_seconds)
        if number in self.record().extractable:
            self._inventory.forbid_extraction(label)
            self._update_record(extractable=tuple(other for other in self.record().extractable if other != number))
        # An earlier verification is no longer valid if this one fails.
        self._update_record(proven=tuple(other for other in self.record().proven if other != number))
        fingerprint = self._verify_key(label, None if other_machine is None else other_machine.key)
        self._update_record(proven=tuple(sorted({*self.record().proven, number})))
        return PreparedVersion(number, label, created, VersionFingerprint(number, fingerprint))

    def activate(self, prepared: PreparedVersion, usage: UsageBook) -> None:
        """The second phase: make the version primary. Every worker encrypts with it within a second.

        Raises:
            RotationRefused: the version is disabled or has reached its maximum number of encryptions.
            StateUnusable: the state directory cannot be written.
        """
        if prepared.number in self.record().disabled:
            raise RotationRefused(
                f"version {prepared.number} is disabled", "enable it first: xksproxy keys enable-version"
            )
        if usage.read(prepared.label).encryptions >= self._key.maximum_encryptions:
            raise RotationRefused(
                f"version {prepared.number} has reached its maximum number of encryptions",
                f"rotate to a new version: xksproxy keys rotate {self._key.id}",
            )
        self._update_record(primary=prepared.number, pending=None)

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
        """The version of an unfinished run, else an unused one that is on an HSM, else a new one."""
        record = self.record()
        if record.pending is not None and (record.pending > record.primary or record.pending in record.proven):
            return record.pending
        on_tokens = {
            number
            for labels in self._inventory.labels().values()
            for label in labels
            if (number := self._key.version_of(label)) is not None
        }
        unused = sorted(number for number in on_tokens - set(record.disabled) if number > record.primary)
        if unused:
            return unused[0]
        if self._key.listed_versions:
            return self._next_listed_version(record)
        return max({record.primary, *on_tokens, *record.proven, *record.disabled}) + 1

    def _next_listed_version(self, record: VersionRecord) -> int:
        later = sorted(number for number in self._key.listed_versions if number > record.primary)
        if not later:
            raise RotationRefused(
                f"the configuration lists no version after {record.primary}",
                f"add one to the versions of {self._key.id}, such as {record.primary + 1} = "
                f'"{self._key.label}-{record.primary + 1}", and reload the proxy',
            )
        return later[0]

    def _label_of(self, number: int) -> str:
        label = self._key.label_of(number)
        if label is None:
            raise RotationRefused(f"the configuration lists no version {number} of {self._key.id}")
        owner = self._keys.key_of_label(label)
        if owner is None or owner.id != self._key.id:
            name = f"the external key {owner.id}" if owner else "no external key"
            raise RotationRefused(
                f"the label {label} of version {number} belongs to {name}, not to {self._key.id}",
                "check the labels and versions of the key store's keys in the configuration",
            )
        return label

    def _ensure_key_exists(self, number: int, label: str, distribution: Distribution, *, may_create: bool) -> bool:
        """Create the key if no HSM has it. All HSMs are asked first, so it is created once. Return whether it was."""
        if self._inventory.hsms_with(label):
            self._update_record(pending=number)
            return False
        if not may_create:
            self._inventory.wait_for_replication(label, distribution.wait_seconds)
            self._update_record(pending=number)
            return False
        if number <= self.record().primary:
            raise RotationRefused(f"no HSM has version {number} of {self._key.id}, the label {label}")
        is_copied = distribution.wrapping_label is not None
        extractable = (*self.record().extractable, number) if is_copied else self.record().extractable
        self._update_record(pending=number, extractable=extractable)
        self._inventory.create_key(label, extractable=is_copied)
        return True

    def _verify_key(self, label: str, other_machine: KeyFingerprint | None) -> KeyFingerprint:
        """Verify the key on every HSM, and record its fingerprint before workers use the key."""
        if other_machine is not None:
            self._inventory.verify(label, other_machine)
        recorded = self._fingerprints.propose(label, self._inventory.make_fingerprint(label))
        if recorded.canary is None:
            raise TokenUnavailable(f"the recorded fingerprint of the key {label} has no canary to verify the key with")
        self._inventory.verify(label, recorded)
        return recorded

    def _update_record(self, **changes: object) -> None:
        first = VersionRecord(self._key.first_version)
        self._versions.update(self._key.id, lambda record: replace(record or first, **changes))

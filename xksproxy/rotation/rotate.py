"""The steps of a rotation. Each can be the last one before a crash: the next run goes on from there."""

from dataclasses import dataclass

from msgspec.structs import replace

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.keystore.keymap import ExternalKey, KeyMap
from xksproxy.rotation.errors import RotationRefused
from xksproxy.rotation.key_inventory import KeyInventory
from xksproxy.state.state_file import SharedTable
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import VersionRecord


@dataclass(frozen=True, slots=True)
class Reach:
    """How a new key gets to the other HSMs."""

    wait_seconds: float
    """How long their own replication may take."""

    wrapping_label: str | None = None
    """A wrapping key on all of them, under which it is copied instead."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that every HSM of this machine was seen to hold and to decrypt with."""

    number: int
    label: str
    made: bool
    """Whether this run made it."""

    proof: "Proof"


@dataclass(frozen=True, slots=True)
class Proof:
    """What tells a version from every other key, on other machines too."""

    number: int
    key: KeyFingerprint


class Rotation:
    """The rotation of one external key. Hold the key store's rotation lock while it is used."""

    def __init__(
        self,
        key: ExternalKey,
        keys: KeyMap,
        inventory: KeyInventory,
        versions: SharedTable[VersionRecord],
        proofs: FingerprintRecords,
    ) -> None:
        self._key = key
        self._keys = keys
        self._holdings = inventory
        self._versions = versions
        self._identity = proofs

    def record(self) -> VersionRecord:
        """What is on record for the key now (StateUnusable if it cannot be read)."""
        self._versions.refresh()
        return self._versions.get(self._key.id) or VersionRecord(self._key.first_version)

    def prepare(self, wanted: int | None, reach: Reach, foreign: Proof | None = None) -> Prepared:
        """The first phase: one key of the next version on every HSM, proven to be the same. It does not encrypt yet.

        ``wanted`` is an existing version to go to instead; ``foreign`` a proof that another machine made of one. Only
        without either is a key ever made.

        Raises:
            RotationRefused: it cannot be done; see its hints.
            HsmError, StateUnusable: an HSM or the state directory does not answer.
        """
        number = self._agreed_version(wanted, foreign)
        label = self._label_of(number)
        made = self._ensure_present(number, label, reach, may_make=wanted is None and foreign is None)
        if reach.wrapping_label is not None:
            self._holdings.copy_to_missing(label, reach.wrapping_label)
        self._holdings.await_everywhere(label, reach.wait_seconds)
        if number in self.record().extractable:
            self._holdings.forbid_extraction(label)
            self._put(extractable=tuple(other for other in self.record().extractable if other != number))
        # Whatever was proven before counts no more if it cannot be proven now.
        self._put(proven=tuple(other for other in self.record().proven if other != number))
        proof = self._proven(label, None if foreign is None else foreign.key)
        self._put(proven=tuple(sorted({*self.record().proven, number})))
        return Prepared(number, label, made, Proof(number, proof))

    def _agreed_version(self, wanted: int | None, foreign: Proof | None) -> int:
        if foreign is not None and wanted not in (None, foreign.number):
            raise RotationRefused(f"the proof is of version {foreign.number}, not {wanted}")
        return foreign.number if foreign is not None else wanted if wanted is not None else self._next_version()

    def _ensure_present(self, number: int, label: str, reach: Reach, *, may_make: bool) -> bool:
        """Make the key if no HSM has it, which all of them were asked, so that it is made once; whether it was."""
        if self._holdings.holders(label):
            self._put(pending=number)
            return False
        if not may_make:
            self._holdings.await_everywhere(label, reach.wait_seconds)
            self._put(pending=number)
            return False
        if number <= self.record().primary:
            raise RotationRefused(f"no HSM has version {number} of {self._key.id}, the label {label}")
        copying = reach.wrapping_label is not None
        extractable = (*self.record().extractable, number) if copying else self.record().extractable
        self._put(pending=number, extractable=extractable)
        self._holdings.make(label, extractable=copying)
        return True

    def activate(self, prepared: Prepared, usage: UsageBook) -> None:
        """The second phase: from now on the version encrypts, in every worker within a second.

        Raises:
            RotationRefused: it is disabled or has made all its encryptions.
            StateUnusable: the state directory cannot be written.
        """
        if prepared.number in self.record().disabled:
            raise RotationRefused(
                f"version {prepared.number} is disabled", "enable it first: xksproxy keys enable-version"
            )
        if usage.read(prepared.label).encryptions >= self._key.maximum_encryptions:
            raise RotationRefused(f"version {prepared.number} has made all the encryptions it may")
        self._put(primary=prepared.number, pending=None)

    def _next_version(self) -> int:
        """The version that an earlier run began with, or one that is there already, or a new one."""
        record = self.record()
        if record.pending is not None and (record.pending > record.primary or record.pending in record.proven):
            return record.pending
        present = {
            number
            for labels in self._holdings.labels().values()
            for label in labels
            if (number := self._key.version_of(label)) is not None
        }
        waiting = sorted(number for number in present - set(record.disabled) if number > record.primary)
        if waiting:
            return waiting[0]
        if self._key.explicit:
            return self._next_explicit(record)
        return max({record.primary, *present, *record.proven, *record.disabled}) + 1

    def _next_explicit(self, record: VersionRecord) -> int:
        later = sorted(number for number in self._key.explicit if number > record.primary)
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
        holder = self._keys.holder(label)
        if holder is None or holder.id != self._key.id:
            owner = holder.id if holder else "nobody"
            raise RotationRefused(f"the label {label} belongs to {owner}, not to {self._key.id}")
        return label

    def _proven(self, label: str, foreign: KeyFingerprint | None) -> KeyFingerprint:
        """Prove the key on every HSM, and let the workers know the proof before they meet the key."""
        if foreign is not None:
            self._holdings.prove(label, foreign)
        own = self._holdings.make_fingerprint(label)
        known = self._identity.propose(label, own)
        if known.canary is None:
            raise TokenUnavailable(f"the record of the key {label} has no canary to prove it by")
        self._holdings.prove(label, known)
        return known

    def _put(self, **changes: object) -> None:
        first = VersionRecord(self._key.first_version)
        self._versions.update(self._key.id, lambda record: replace(record or first, **changes))

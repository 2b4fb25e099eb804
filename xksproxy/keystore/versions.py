"""The version of an external key that a request uses."""

import logging
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import CiphertextMetadata, UnknownMetadata
from xksproxy.keystore.key_map import ExternalKey
from xksproxy.spec.errors import InternalException, InvalidCiphertextException, InvalidStateException
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.versions import VersionRecord

_log: Final = logging.getLogger(__name__)


class KeyVersion(msgspec.Struct, frozen=True):
    """One version of an external key."""

    number: int
    label: str


class KeyVersions:
    """The versions of a key store's keys. The primary version is recorded in a file that all workers share."""

    def __init__(self, records: SharedTable[VersionRecord], *, unread: str = "") -> None:
        """Read the record, unless ``unread`` is the reason why it must not be read now."""
        self._records = records
        self.problem = unread
        """Why the record cannot be read. Empty if it can be read."""
        self._was_read = False
        if not unread:
            self.refresh()

    def refresh(self) -> None:
        """Read the record again. If it cannot be read, the versions stay as they were; each reason is logged once."""
        try:
            self._records.refresh()
        except StateUnusable as error:
            if str(error) != self.problem:
                _log.error("key versions cannot be read", extra={"fields": {"reason": str(error)}})
            self.problem = str(error)
        else:
            self.problem, self._was_read = "", True

    @property
    def revision(self) -> int:
        """The revision of the record that is in force."""
        return self._records.revision

    def as_of(self) -> object:
        """Another value when the record was read for the first time, or has changed."""
        return self.revision, self._was_read

    def primary(self, key: ExternalKey) -> KeyVersion:
        """Return the version that encrypts. Until the first rotation this is the first version.

        Raises:
            InternalException: the record was never readable, or names a version that the configuration does not list.
        """
        record = self._record(key)
        number = key.first_version if record is None else record.primary
        label = key.label_of(number)
        if label is None:
            raise InternalException(
                f"Version {number} of the key is primary, but the proxy's configuration does not list it"
            )
        return KeyVersion(number, label)

    def is_primary(self, key: ExternalKey, label: str) -> bool:
        """Whether a label is that of the version that encrypts; none is while that cannot be read."""
        try:
            return self.primary(key).label == label
        except InternalException:
            return False

    def of_ciphertext(self, key: ExternalKey, metadata: bytes) -> tuple[KeyVersion, AadEncoding]:
        """Return the version that made a ciphertext, and the encoding of its AAD.

        Without metadata, and with a legacy value, the version is 1. The version may not exist on the token.

        Raises:
            InvalidCiphertextException: the metadata is not the proxy's and not a legacy value of the key, or names a
                version that the key cannot have.
            InvalidStateException: the version is disabled.
            InternalException: the record was never readable, so the version may be disabled.
        """
        if not metadata or metadata in key.legacy_metadata:
            number, encoding = 1, key.legacy_aad_encoding
        else:
            try:
                parsed = CiphertextMetadata.unpack(metadata)
            except UnknownMetadata as error:
                raise InvalidCiphertextException(f"ciphertextMetadata is not from this proxy: {error}") from error
            number, encoding = parsed.version, parsed.aad_encoding
        label = key.label_of(number)
        if label is None:
            raise InvalidCiphertextException(f"The external key has no version {number}")
        record = self._record(key)
        if record is not None and number in record.disabled:
            raise InvalidStateException(f"Version {number} of the external key is disabled")
        return KeyVersion(number, label), encoding

    def _record(self, key: ExternalKey) -> VersionRecord | None:
        if not self._was_read:
            raise InternalException("The proxy cannot read the versions of the key", detail=self.problem)
        return self._records.get(key.id)

    def is_on_record(self, key: ExternalKey, number: int) -> bool:
        """Whether a version is on the token, by the record: it is the first, the primary, or a verified version."""
        record = self._records.get(key.id)
        return number == key.first_version or (record is not None and number in (record.primary, *record.proven))

    def is_verified(self, key: ExternalKey, number: int) -> bool:
        """Whether a rotation has verified a version on every HSM of this machine."""
        record = self._records.get(key.id)
        return record is not None and number in record.proven

    def is_abandoned(self, key: ExternalKey, label: str) -> bool:
        """Whether a label is that of a version that was prepared and given up before it encrypted."""
        record = self._records.get(key.id)
        return record is not None and key.version_of(label) in record.abandoned

    def is_unrecorded(self, key: ExternalKey, label: str) -> bool:
        """Whether a label is that of a later version, by the naming rule, than the last one of which there is a record.

        No label is while the record was never readable: none of the versions encrypts then.
        """
        number = None if key.listed_versions or not self._was_read else key.version_of(label)
        if number is None:
            return False
        record = self._records.get(key.id) or VersionRecord(key.first_version)
        return number > max(record.primary, record.pending or 0, record.highest, *record.proven, *record.disabled)


def version_problems(at: str, keys: Iterable[ExternalKey], records: SharedTable[VersionRecord]) -> Iterator[str]:
    """Report keys whose recorded primary version the configuration does not list.

    ``at`` is the path of the key store in the configuration.

    Raises:
        StateUnusable: the record cannot be read.
    """
    records.refresh()
    for key in keys:
        record = records.get(key.id)
        if record is not None and key.label_of(record.primary) is None:
            yield (
                f"{at}.keys: version {record.primary} of {key.id} is primary on this machine, but versions does not"
                " list it; add it"
            )

"""Which version of an external key a request is for."""

import logging
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import CiphertextMetadata, UnknownMetadata
from xksproxy.keystore.keymap import ExternalKey
from xksproxy.spec.errors import InternalException, InvalidCiphertextException, InvalidStateException
from xksproxy.state.state_file import SharedTable, StateUnusable
from xksproxy.state.versions import VersionRecord

_log: Final = logging.getLogger(__name__)


class KeyVersion(msgspec.Struct, frozen=True):
    """One version of an external key."""

    number: int
    label: str


class KeyVersions:
    """The versions of a key store's keys. Which one is primary is durable state that all workers share."""

    def __init__(self, records: SharedTable[VersionRecord]) -> None:
        self._records = records
        self.problem = ""
        """Why the record cannot be read; empty if it can."""
        self._ever_read = False
        self.refresh()

    def refresh(self) -> None:
        """Take over what has changed on disk; what cannot be read changes nothing, and is said once."""
        try:
            self._records.refresh()
        except StateUnusable as error:
            if str(error) != self.problem:
                _log.error("key versions cannot be read", extra={"fields": {"reason": str(error)}})
            self.problem = str(error)
        else:
            self.problem, self._ever_read = "", True

    def primary(self, key: ExternalKey) -> KeyVersion:
        """The version that encrypts; version 1 until a rotation made another one primary.

        Raises:
            InternalException: the record cannot be read, or names a version that the configuration does not have.
        """
        if not self._ever_read:
            raise InternalException("The proxy cannot read which version of the key encrypts", detail=self.problem)
        record = self._records.get(key.id)
        number = key.first_version if record is None else record.primary
        label = key.label_of(number)
        if label is None:
            raise InternalException(f"Version {number} of the key encrypts, and the proxy's configuration lacks it")
        return KeyVersion(number, label)

    def of_ciphertext(self, key: ExternalKey, metadata: bytes) -> tuple[KeyVersion, AadEncoding]:
        """The version that made a ciphertext, and how its AAD was encoded; without metadata of ours the first one.

        The version may be one that does not exist.

        Raises:
            InvalidCiphertextException: the metadata is neither ours nor a legacy value of the key.
            InvalidStateException: the version is disabled.
        """
        if not metadata or metadata in key.legacy_metadata:
            number, encoding = 1, key.legacy_aad_encoding
        else:
            try:
                parsed = CiphertextMetadata.unpack(metadata)
            except UnknownMetadata as error:
                raise InvalidCiphertextException(f"ciphertextMetadata is not the proxy's own: {error}") from error
            number, encoding = parsed.version, parsed.aad_encoding
        label = key.label_of(number)
        if label is None:
            raise InvalidCiphertextException(f"The external key has no version {number}")
        record = self._records.get(key.id)
        if record is not None and number in record.disabled:
            raise InvalidStateException(f"Version {number} of the external key is disabled")
        return KeyVersion(number, label), encoding

    def is_on_record(self, key: ExternalKey, number: int) -> bool:
        """Whether a version is known to be on the token without asking it."""
        record = self._records.get(key.id)
        return number == key.first_version or (record is not None and number in (record.primary, *record.proven))


def version_problems(at: str, keys: Iterable[ExternalKey], records: SharedTable[VersionRecord]) -> Iterator[str]:
    """Keys whose primary version, by the record, is none that the configuration lists; ``at`` is the key store's path.

    Raises:
        StateUnusable: the record cannot be read.
    """
    records.refresh()
    for key in keys:
        record = records.get(key.id)
        if record is not None and key.label_of(record.primary) is None:
            yield f"{at}.keys: version {record.primary} of {key.id} encrypts on this machine, and versions lack it"

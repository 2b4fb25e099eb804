"""A key store: its path prefix, credentials, key map, versions and blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from xksproxy.config import model
from xksproxy.config.credentials import StoredCredential
from xksproxy.config.key_names import split_version_label
from xksproxy.keystore.blocks import Blocks
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.sigv4.keyring import Keyring
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.known_credentials import Checks, checks_of
from xksproxy.state.retired_credentials import RetiredCredentials
from xksproxy.state.state_file import StateUnusable


@dataclass(frozen=True, slots=True)
class StoreRecords:
    """The records of a key store that outlive the process."""

    versions: KeyVersions
    blocks: Blocks
    uses: CredentialUses
    retired: RetiredCredentials


@dataclass(frozen=True, slots=True)
class KeyStore:
    """One external key store of KMS. A credential is valid for its own key store only (R-URI-9)."""

    name: str
    uri_path_prefix: str
    keyring: Keyring
    keys: KeyMap
    versions: KeyVersions
    blocks: Blocks
    credential_uses: CredentialUses
    credentials_created: Mapping[str, float]
    """Creation times by access key id, in seconds since 1970."""

    credential_checks: Checks
    """What shows that a credential has changed."""

    refused_credentials: tuple[str, ...]
    """The access key ids of credentials whose files are there, but which were retired."""

    @classmethod
    def build(
        cls, table: model.KeyStore, fleet_size: int, stored: Sequence[StoredCredential], records: StoreRecords
    ) -> Self:
        """Make a key store. Of the ``stored`` credentials, those that were retired are not accepted.

        None is while it is not known which were retired.
        """
        accepted = [item for item in stored if records.retired.accepts(table.name, item.credential.access_key_id)]
        created = {item.credential.access_key_id: item.created.timestamp() for item in accepted}
        ids = (item.credential.access_key_id for item in stored)
        return cls(
            table.name,
            table.uri_path_prefix,
            Keyring(item.credential for item in accepted),
            KeyMap(table.keys, fleet_size),
            records.versions,
            records.blocks,
            records.uses,
            created,
            checks_of(item.credential for item in stored),
            tuple(access_key_id for access_key_id in ids if records.retired.has(table.name, access_key_id)),
        )

    def exposes(self, label: str) -> bool:
        """Whether a label is that of a version of an external key that was not abandoned. Nothing needs those."""
        if label in self.keys.reserved_labels or not self.keys.has_label(label):
            return False
        if split_version_label(label) is None and not self.keys.lists_versions:  # to find the key takes longer
            return True
        key = self.keys.key_of_label(label)
        return key is None or not self.versions.is_abandoned(key, label)

    def key_of_primary(self, label: str) -> ExternalKey | None:
        """The external key whose primary version has a label; None if there is none."""
        key = self.keys.key_of_label(label)
        return key if key is not None and self.versions.is_primary(key, label) else None

    def encrypts_with(self, label: str) -> bool:
        """Whether a label is that of a primary version."""
        return self.key_of_primary(label) is not None

    def is_unrecorded(self, label: str) -> bool:
        """Whether a label is that of a later version of an exposed key than this machine has a record of."""
        if split_version_label(label) is None:  # to find the key takes longer
            return False
        key = self.keys.key_of_label(label)
        return key is not None and self.versions.is_unrecorded(key, label)

    def credentials_used(self) -> Mapping[str, float]:
        """The time of last use on this machine by access key id, in seconds since 1970, precise to one minute.

        A credential that was never used is absent. The result is empty if the record cannot be read. It waits for the
        disk, so call it on a thread.
        """
        try:
            return self.credential_uses.last_used(tuple(self.credentials_created))
        except StateUnusable:
            return {}

"""A key store: path prefix, credentials, key map and versions, built from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xksproxy.config import model
from xksproxy.config.credentials import read_credentials
from xksproxy.keystore.blocks import BlockChange, Blocks
from xksproxy.keystore.keymap import KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.sigv4.keyring import Keyring
from xksproxy.state.blocks import block_table
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.versions import version_table


@dataclass(frozen=True, slots=True)
class KeyStore:
    """One external key store of KMS. A credential of one never opens another (R-URI-9)."""

    name: str
    uri_path_prefix: str
    keyring: Keyring
    keys: KeyMap
    versions: KeyVersions
    blocks: Blocks
    credential_uses: CredentialUses
    credentials_created: Mapping[str, float]
    """By access key id, in seconds since 1970."""

    @classmethod
    def build(cls, table: model.KeyStore, fleet_size: int, state_directory: Path) -> Self:
        """Read the credentials, key versions and blocks, and compile the key map.

        Raises:
            ConfigError: the credentials cannot be read.
        """
        stored = read_credentials(Path(table.credentials))
        keyring = Keyring(item.credential for item in stored)
        versions = KeyVersions(version_table(state_directory, table.name))
        blocks = Blocks(block_table(state_directory, table.name))
        uses = CredentialUses(state_directory, table.name)
        created = {item.credential.access_key_id: item.created.timestamp() for item in stored}
        keys = KeyMap(table.keys, fleet_size)
        return cls(table.name, table.uri_path_prefix, keyring, keys, versions, blocks, uses, created)

    def credentials_used(self) -> Mapping[str, float]:
        """When each credential that ever was used was last used on this machine, in seconds since 1970, to the minute.

        It reads a file: call it on a thread. What cannot be read is not told.
        """
        try:
            return self.credential_uses.last_used(tuple(self.credentials_created))
        except StateUnusable:
            return {}

    def refresh_state(self) -> list[BlockChange]:
        """Take over what others have changed on disk, and record there what is due; call it on a thread.

        What was blocked or unblocked is told.
        """
        self.credential_uses.flush()
        self.versions.refresh()
        return self.blocks.refresh()

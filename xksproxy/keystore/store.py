"""A key store: path prefix, credentials, key map and versions, built from its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xksproxy.config import model
from xksproxy.config.credentials import load_credentials
from xksproxy.keystore.blocks import Blocks
from xksproxy.keystore.keymap import KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.sigv4.keyring import Keyring
from xksproxy.state.blocks import block_table
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

    @classmethod
    def build(cls, table: model.KeyStore, fleet_size: int, state_directory: Path) -> Self:
        """Read the credentials, key versions and blocks, and compile the key map.

        Raises:
            ConfigError: the credentials cannot be read.
        """
        keyring = Keyring(load_credentials(Path(table.credentials)))
        versions = KeyVersions(version_table(state_directory, table.name))
        blocks = Blocks(block_table(state_directory, table.name))
        return cls(table.name, table.uri_path_prefix, keyring, KeyMap(table.keys, fleet_size), versions, blocks)

    def refresh_state(self) -> None:
        """Take over what commands and other workers have changed on disk; call it on a thread."""
        self.blocks.refresh()
        self.versions.refresh()

"""A key store: path prefix, credentials and key map, built from its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xksproxy.config import model
from xksproxy.config.credentials import load_credentials
from xksproxy.keystore.keymap import KeyMap
from xksproxy.sigv4.keyring import Keyring


@dataclass(frozen=True, slots=True)
class KeyStore:
    """One external key store of KMS. A credential of one never opens another (R-URI-9)."""

    name: str
    uri_path_prefix: str
    keyring: Keyring
    keys: KeyMap

    @classmethod
    def build(cls, table: model.KeyStore) -> Self:
        """Read the credentials and compile the key map.

        Raises:
            ConfigError: the credentials cannot be read.
        """
        keyring = Keyring(load_credentials(Path(table.credentials)))
        return cls(table.name, table.uri_path_prefix, keyring, KeyMap(table.keys))

"""A key store is built from its table and its credentials, independent of other key stores."""

from pathlib import Path

import pytest

from xksproxy.config import model
from xksproxy.config.credentials import save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.keystore.blocks import Blocks
from xksproxy.keystore.store import KeyStore
from xksproxy.keystore.versions import KeyVersions
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.state.blocks import block_table
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.versions import version_table


def _table(directory: Path, *credentials: Credential, name: str = "payments") -> model.KeyStore:
    directory.mkdir(0o700)
    for credential in credentials:
        save_credential(directory, credential)
    return model.KeyStore(
        name=name,
        uri_path_prefix=f"/{name}",
        hsms=("hsm-1",),
        credentials=str(directory),
        keys=(model.Key(id=f"{name}-key", label="label"),),
    )


def _build(table: model.KeyStore, state: Path) -> KeyStore:
    versions, blocks = KeyVersions(version_table(state, table.name)), Blocks(block_table(state, table.name))
    return KeyStore.build(table, 1, versions, blocks, CredentialUses(state, table.name))


def test_a_key_store_has_the_name_prefix_and_keys_of_its_table(tmp_path: Path) -> None:
    store = _build(_table(tmp_path / "one", generate_credential()), tmp_path / "state")

    assert (store.name, store.uri_path_prefix) == ("payments", "/payments")
    assert store.keys.resolve("payments-key").label == "label"


def test_all_credentials_of_a_key_store_open_it_and_none_of_another(tmp_path: Path) -> None:
    # R-AUTH-11, R-URI-9
    old, new, foreign = (generate_credential() for _ in range(3))

    store = _build(_table(tmp_path / "one", old, new), tmp_path / "state")
    other = _build(_table(tmp_path / "two", foreign, name="other"), tmp_path / "state")

    assert old.access_key_id in store.keyring
    assert new.access_key_id in store.keyring
    assert foreign.access_key_id not in store.keyring
    assert old.access_key_id not in other.keyring
    with pytest.raises(KeyNotFoundException):
        other.keys.resolve("payments-key")


def test_a_key_store_without_credentials_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it holds no credential"):
        _build(_table(tmp_path / "none"), tmp_path / "state")

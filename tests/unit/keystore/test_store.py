"""A key store is built from its table and its credentials, independent of other key stores."""

from pathlib import Path

import pytest

from xksproxy.config import model
from xksproxy.config.credentials import save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.keystore.store import KeyStore
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.spec.errors import KeyNotFoundException


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


def test_a_key_store_has_the_name_prefix_and_keys_of_its_table(tmp_path: Path) -> None:
    store = KeyStore.build(_table(tmp_path / "one", generate_credential()), 1, tmp_path / "state")

    assert (store.name, store.uri_path_prefix) == ("payments", "/payments")
    assert store.keys.resolve("payments-key").label == "label"


def test_all_credentials_of_a_key_store_open_it_and_none_of_another(tmp_path: Path) -> None:
    # R-AUTH-11, R-URI-9
    old, new, foreign = (generate_credential() for _ in range(3))

    store = KeyStore.build(_table(tmp_path / "one", old, new), 1, tmp_path / "state")
    other = KeyStore.build(_table(tmp_path / "two", foreign, name="other"), 1, tmp_path / "state")

    assert old.access_key_id in store.keyring
    assert new.access_key_id in store.keyring
    assert foreign.access_key_id not in store.keyring
    assert old.access_key_id not in other.keyring
    with pytest.raises(KeyNotFoundException):
        other.keys.resolve("payments-key")


def test_a_key_store_without_credentials_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it holds no credential"):
        KeyStore.build(_table(tmp_path / "none"), 1, tmp_path / "state")

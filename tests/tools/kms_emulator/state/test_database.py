"""The state file."""

import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from xksproxy_tools.kms_emulator.state.database import Database, StateFileUnusable
from xksproxy_tools.kms_emulator.state.records import (
    Alias,
    Cluster,
    Connection,
    ConnectionState,
    Connectivity,
    KeyStore,
    KmsKey,
    Origin,
    StoreType,
    XksProxy,
)

PROXY = XksProxy(Connectivity.PUBLIC, "https://xks.example.com", "/kms/xks/v1", "ID", "the secret", None, None)
STORE = KeyStore("cks-1", "111122223333", "store", 1.5, proxy=PROXY)
KEY = KmsKey(
    "key-1", "111122223333", 2.5, Origin.EXTERNAL, "backing", "{}",
    material=b"m" * 32, store_id="cks-1", xks_key_id="x", tags={"a": "b"},
)  # fmt: skip


def opened(path: Path) -> closing[Database]:
    return closing(Database.open(path, "eu-west-1"))


def test_records_are_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    cluster = Cluster("cluster-2a3b4c5d6e7", "PEM", "password")
    failed = Connection(ConnectionState.FAILED, "XKS_PROXY_TIMED_OUT")
    other = KeyStore("cks-2", "111122223333", "other", 1.0, cluster=cluster, connection=failed)
    with opened(tmp_path / "state") as database:
        database.put_key_store(STORE)
        database.put_key_store(other)
        database.put_key(KEY)
        database.put_alias(Alias("111122223333", "alias/a", "key-1", 3.0, 4.0))

    with opened(tmp_path / "state") as database:
        assert database.key_stores() == [STORE, other]
        assert (STORE.type, other.type) == (StoreType.EXTERNAL, StoreType.CLOUDHSM)
        assert database.key("key-1") == KEY
        assert database.alias("111122223333", "alias/a") == Alias("111122223333", "alias/a", "key-1", 3.0, 4.0)


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    with opened(tmp_path / "state") as database:
        database.put_key_store(STORE)
        files = list(tmp_path.iterdir())

        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize(
    ("statement", "mode", "reason"),
    [
        ("SELECT 1", 0o640, "its mode is 0640; expected 0600, because it contains key material"),
        ("UPDATE region SET name = 'us-east-1'", 0o600, "it is the state file of us-east-1; expected eu-west-1"),
        ("PRAGMA user_version = 99", 0o600, "its version is 99; expected 1"),
    ],
)
def test_a_file_with_another_mode_region_or_version_is_refused(
    tmp_path: Path, statement: str, mode: int, reason: str
) -> None:
    with opened(tmp_path / "state"):
        pass
    with closing(sqlite3.connect(tmp_path / "state", isolation_level=None)) as connection:
        connection.execute(statement)
    (tmp_path / "state").chmod(mode)

    with pytest.raises(StateFileUnusable, match=reason):
        Database.open(tmp_path / "state", "eu-west-1")


def test_a_second_emulator_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "state"), pytest.raises(StateFileUnusable, match="another emulator is using it"):
        Database.open(tmp_path / "state", "eu-west-1")


@pytest.mark.parametrize("is_database", [False, True])
def test_another_file_is_refused_and_not_changed(tmp_path: Path, is_database: bool) -> None:
    path = tmp_path / "state"
    path.touch(0o600)
    if is_database:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE of_someone_else (a)")
    else:
        path.write_bytes(b"no database, but text that is long enough " * 100)
    content = path.read_bytes()

    with pytest.raises(StateFileUnusable, match="it is not a state file of the emulator"):
        Database.open(path, "eu-west-1")
    assert path.read_bytes() == content


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StateFileUnusable, match="No such file or directory"):
        Database.open(tmp_path / "nowhere" / "state", "eu-west-1")


def test_the_repr_hides_secrets() -> None:
    cluster = Cluster("cluster-2a3b4c5d6e7", "PEM", "the password")

    shown = repr((STORE, replace(STORE, proxy=None, cluster=cluster), KEY))

    assert "the secret" not in shown
    assert "the password" not in shown
    assert "mmmm" not in shown

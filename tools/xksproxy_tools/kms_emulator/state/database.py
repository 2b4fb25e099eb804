"""The state file in SQLite. One emulator at a time uses it. All SQL is in this module."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from xksproxy_tools.kms_emulator.state.records import Alias, KeyStore, KmsKey

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE region (name TEXT NOT NULL) STRICT;
CREATE TABLE key_stores (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, name TEXT NOT NULL, record BLOB NOT NULL, UNIQUE (account, name)
) STRICT;
CREATE TABLE kms_keys (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, store_id TEXT REFERENCES key_stores (id), xks_key_id TEXT,
    deletion_date REAL, record BLOB NOT NULL, UNIQUE (store_id, xks_key_id)
) STRICT;
CREATE TABLE aliases (
    account TEXT NOT NULL, name TEXT NOT NULL, key_id TEXT NOT NULL REFERENCES kms_keys (id) ON DELETE CASCADE,
    created REAL NOT NULL, updated REAL NOT NULL, PRIMARY KEY (account, name)
) STRICT;
"""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

Record = TypeVar("Record")


class StateFileUnusable(Exception):
    """The state file cannot be used; the text gives the reason and what was expected."""


class Database:
    """All stored state. It belongs to the thread that opened it. A change is on disk when the method returns."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, region: str) -> Self:
        """Open the state file of a Region, or create it.

        Raises:
            StateFileUnusable: other users can read the file, it is not a state file of this Region and version, or
                another emulator uses it.
        """
        _make_private(path)
        try:
            connection = sqlite3.connect(path, timeout=0, isolation_level=None)
            try:
                _prepare(connection, path, region)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise StateFileUnusable(f"{path}: {_explain(error)}") from None
        return cls(connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def key_stores(self, account: str | None = None) -> list[KeyStore]:
        """The key stores of an account, or of all, in the order of their ids."""
        where, values = ("", ()) if account is None else ("WHERE account = ?", (account,))
        return self._records(KeyStore, f"SELECT record FROM key_stores {where} ORDER BY id", *values)  # noqa: S608

    def key_store(self, store_id: str) -> KeyStore | None:
        """A key store by its id."""
        return _only(self._records(KeyStore, "SELECT record FROM key_stores WHERE id = ?", store_id))

    def put_key_store(self, store: KeyStore) -> None:
        """Add a key store, or replace the one with its id."""
        self._connection.execute(
            "INSERT INTO key_stores VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record",
            (store.id, store.account, store.name, msgspec.json.encode(store)),
        )

    def delete_key_store(self, store_id: str) -> None:
        """Delete a key store that has no keys."""
        self._connection.execute("DELETE FROM key_stores WHERE id = ?", (store_id,))

    def keys(self, account: str) -> list[KmsKey]:
        """The keys of an account, in the order of their ids."""
        return self._records(KmsKey, "SELECT record FROM kms_keys WHERE account = ? ORDER BY id", account)

    def keys_of(self, store_id: str) -> list[KmsKey]:
        """The keys in a key store, including those pending deletion."""
        return self._records(KmsKey, "SELECT record FROM kms_keys WHERE store_id = ? ORDER BY id", store_id)

    def key(self, key_id: str) -> KmsKey | None:
        """A key by its id."""
        return _only(self._records(KmsKey, "SELECT record FROM kms_keys WHERE id = ?", key_id))

    def keys_to_delete(self, now: float) -> list[KmsKey]:
        """The keys whose waiting period is over."""
        return self._records(KmsKey, "SELECT record FROM kms_keys WHERE deletion_date <= ?", now)

    def put_key(self, key: KmsKey) -> None:
        """Add a key, or replace the one with its id."""
        self._connection.execute(
            "INSERT INTO kms_keys VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET deletion_date = excluded.deletion_date, record = excluded.record",
            (key.id, key.account, key.store_id, key.xks_key_id, key.deletion_date, msgspec.json.encode(key)),
        )

    def delete_key(self, key_id: str) -> None:
        """Delete a key with its key material, tags and aliases."""
        self._connection.execute("DELETE FROM kms_keys WHERE id = ?", (key_id,))

    def aliases(self, account: str) -> list[Alias]:
        """The aliases of an account, in the order of their names."""
        return self._aliases("account = ?", account)

    def aliases_of(self, key_id: str) -> list[Alias]:
        """The aliases of a key, in the order of their names."""
        return self._aliases("key_id = ?", key_id)

    def alias(self, account: str, name: str) -> Alias | None:
        """An alias by its name, with prefix."""
        return _only(self._aliases("account = ? AND name = ?", account, name))

    def put_alias(self, alias: Alias) -> None:
        """Add an alias, or replace the one with its name."""
        self._connection.execute(
            "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?, ?)",
            (alias.account, alias.name, alias.key_id, alias.created, alias.updated),
        )

    def delete_alias(self, account: str, name: str) -> None:
        """Delete an alias. Its key is kept."""
        self._connection.execute("DELETE FROM aliases WHERE account = ? AND name = ?", (account, name))

    def _records(self, kind: type[Record], query: str, *values: Any) -> list[Record]:
        return [msgspec.json.decode(row[0], type=kind) for row in self._connection.execute(query, values)]

    def _aliases(self, condition: str, *values: str) -> list[Alias]:
        query = f"SELECT account, name, key_id, created, updated FROM aliases WHERE {condition} ORDER BY name"  # noqa: S608
        return [Alias(*row) for row in self._connection.execute(query, values)]


def _only(records: list[Record]) -> Record | None:
    return records[0] if records else None


def _make_private(path: Path) -> None:
    """Create the file for its owner only. Refuse a file that others can read, because it contains key material."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            mode = os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StateFileUnusable(f"{path}: {error.strerror}") from None
    if mode & _OTHERS:
        raise StateFileUnusable(
            f"{path}: its mode is {mode & 0o777:04o}; expected 0600, because it contains key material"
        )


def _prepare(connection: sqlite3.Connection, path: Path, region: str) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA foreign_keys = ON")
    with _transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StateFileUnusable(f"{path}: it is not a state file of the emulator, but another database")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO region VALUES (?)", (region,))
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        elif version != _SCHEMA_VERSION:
            raise StateFileUnusable(f"{path}: its version is {version}; expected {_SCHEMA_VERSION}")
        stored = connection.execute("SELECT name FROM region").fetchone()[0]
        if stored != region:
            raise StateFileUnusable(f"{path}: it is the state file of {stored}; expected {region}; use another file")
    # This changes the file, so it comes after all checks.
    connection.execute("PRAGMA journal_mode = WAL")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction with an exclusive lock, so that a second emulator fails when it opens the file."""
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _explain(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return "another emulator is using it"
    if name == "SQLITE_NOTADB":
        return "it is not a state file of the emulator"
    return str(error)

"""Which credentials each key store has, so that a change of their files is recorded once, whoever made it."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.config.credentials import load_credentials
from xksproxy.config.errors import ConfigError
from xksproxy.sigv4.keyring import Credential
from xksproxy.state.audit_spool import leave_event
from xksproxy.state.shared_table import SharedTable

_CHECK_BYTES: Final = 2
_MOST_NAMES: Final = 100
"""So many access key ids are named in one event."""

Checks = Mapping[str, str]
"""For each access key id 16 bits of a hash of its secret: they show another secret, and tell nothing about one."""


class KnownKeyStore(msgspec.Struct, frozen=True):
    """The credentials of one key store."""

    checks: dict[str, str]


def checks_of(credentials: Iterable[Credential]) -> dict[str, str]:
    """The checks of credentials."""
    return {item.access_key_id: _check(item) for item in credentials}


class KnownCredentials:
    """The credentials of all key stores, in one file that the processes of a machine share. Its methods wait for it."""

    def __init__(self, state_directory: Path) -> None:
        self._state_directory = state_directory
        self._table = SharedTable(state_directory, "known-credentials.json", KnownKeyStore)
        self._reported: dict[str, object] = {}
        """The last event of each key store, which is not repeated while the file cannot be written."""

    def follow(self, seen: Mapping[str, tuple[Path, Checks]]) -> None:
        """Leave an event for the audit log for each key store whose credentials are not those on record.

        ``seen`` has the directory and the checks of each key store, by its name. What a key store has when it is first
        seen is no event.

        Raises:
            StateUnusable: the file cannot be read or written.
        """
        self._table.refresh()
        new = [name for name in seen if self._table.get(name) is None]
        if new:
            self._table.add({name: KnownKeyStore(dict(seen[name][1])) for name in new})
        for name, (directory, checks) in seen.items():
            known = self._table.get(name)
            if known is None or known.checks != checks:
                self._table.update(name, partial(self._compare, name, directory))

    def expect(self, keystore: str, access_key_id: str, credential: Credential | None) -> None:
        """Note a change that a command makes and records itself; None if the credential is retired.

        Raises:
            StateUnusable: the file cannot be read or written.
        """

        def change(known: KnownKeyStore | None) -> KnownKeyStore | None:
            if known is None:
                return None
            others = {name: check for name, check in known.checks.items() if name != access_key_id}
            return KnownKeyStore(others if credential is None else {**others, access_key_id: _check(credential)})

        self._table.update(keystore, change)

    def _compare(self, keystore: str, directory: Path, known: KnownKeyStore | None) -> KnownKeyStore | None:
        """Read the files under the lock, because another process may have seen a later change already."""
        try:
            checks = checks_of(load_credentials(directory))
        except ConfigError:  # they are not in use
            return known
        before = {} if known is None else known.checks
        changes = {
            "added": checks.keys() - before.keys(),
            "removed": before.keys() - checks.keys(),
            "replaced": {name for name in checks.keys() & before.keys() if checks[name] != before[name]},
        }
        fields = {kind: _named(ids) for kind, ids in changes.items() if ids}
        if fields and self._reported.get(keystore) != checks:
            leave_event(self._state_directory, "credential files changed", {"keystore": keystore, **fields})
            self._reported[keystore] = checks
        return KnownKeyStore(checks)


def _check(credential: Credential) -> str:
    text = f"{credential.access_key_id}\0{credential.secret_access_key}"
    return hashlib.sha256(text.encode()).digest()[:_CHECK_BYTES].hex()


def _named(ids: Iterable[str]) -> list[str]:
    names = sorted(ids)
    more = len(names) - _MOST_NAMES
    return [*names[:_MOST_NAMES], *([f"and {more} more"] if more > 0 else [])]

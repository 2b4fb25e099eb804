"""Checks of the credentials of all key stores, and of their directories."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from xksproxy.config.credentials import load_credentials
from xksproxy.config.errors import ConfigError
from xksproxy.config.findings import Finding
from xksproxy.config.model import KeyStore
from xksproxy.sigv4.keyring import Credential

_WRITABLE_BY_OTHERS: Final = stat.S_IWOTH
_WRITABLE_BY_GROUP: Final = stat.S_IWGRP


def _load(directory: str) -> Sequence[Credential]:
    return load_credentials(Path(directory))


def credential_problems(
    stores: Sequence[KeyStore], load: Callable[[str], Sequence[Credential]] = _load
) -> Iterator[str]:
    """The problems of the credentials. Each starts with the path of the configuration key.

    An access key id must have the same secret in all key stores (R-AUTH-5). ``load`` returns the credentials of a
    directory, and raises as :func:`load_credentials` does.
    """
    seen: dict[str, tuple[str, str]] = {}
    for index, store in enumerate(stores):
        at = f"keystore[{index}].credentials"
        try:
            credentials = load(store.credentials)
        except ConfigError as error:
            yield from (f"{at}: {problem}" for problem in error.problems)
            continue
        for credential in credentials:
            secret, owner = seen.setdefault(credential.access_key_id, (credential.secret_access_key, store.name))
            if secret != credential.secret_access_key:
                yield f"{at}: the access key id {credential.access_key_id} has another secret in the key store {owner}"


def credential_findings(stores: Sequence[KeyStore]) -> Iterator[Finding]:
    """Risks that do not stop the proxy: directories that their group can write, and shared credentials."""
    owners: dict[str, str] = {}
    for index, store in enumerate(stores):
        at = f"keystore[{index}].credentials"
        directory = Path(store.credentials)
        with suppress(OSError, ValueError):
            yield from _directory_findings(at, directory)
        with suppress(ConfigError):
            for credential in load_credentials(directory):
                owner = owners.setdefault(credential.access_key_id, store.name)
                if owner != store.name:
                    yield Finding.warning(
                        f"{at}: {credential.access_key_id} is also a credential of the key store {owner}; expected"
                        " different credentials for each key store"
                    )


def _directory_findings(at: str, directory: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return
    if mode & _WRITABLE_BY_GROUP and not mode & _WRITABLE_BY_OTHERS:
        yield Finding.warning(
            f"{at}: the mode of {directory} is {mode:04o}, so its group can add a credential; make it 0700"
        )

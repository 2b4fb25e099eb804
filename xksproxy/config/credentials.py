"""A key store's SigV4 credentials: a directory with one private TOML file each."""

import os
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.config.errors import ConfigError
from xksproxy.config.secret import SecretError, read_private_file
from xksproxy.sigv4.keyring import Credential

_SUFFIX: Final = ".toml"


class _CredentialFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key_id: str
    secret_access_key: str


def load_credentials(directory: Path) -> tuple[Credential, ...]:
    """Read every ``*.toml`` of a directory. All of them verify, so old and new can overlap (R-AUTH-11).

    Raises:
        ConfigError: a file is readable by others or malformed, an access key id comes twice (R-AUTH-5), or there is
            no credential at all.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == _SUFFIX)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{directory}: {reason}; expected a directory with a file per credential"]) from None
    problems: list[str] = []
    credentials: dict[str, Credential] = {}
    for path in files:
        try:
            credential = _load_credential(path)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if credential.access_key_id in credentials:
            problems.append(f"{path}: another file of this directory has the same access_key_id")
        credentials[credential.access_key_id] = credential
    if not files:
        problems.append(f"{directory}: it holds no credential; expected at least one file named *{_SUFFIX}")
    if problems:
        raise ConfigError(problems)
    return tuple(credentials.values())


def save_credential(directory: Path, credential: Credential) -> Path:
    """Write a credential to a new file of mode 0600 and return its path."""
    path = directory / f"{credential.access_key_id}{_SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'access_key_id = "{credential.access_key_id}"\n')
        file.write(f'secret_access_key = "{credential.secret_access_key}"\n')
    return path


def _load_credential(path: Path) -> Credential:
    try:
        table = tomllib.loads(read_private_file(path, group_may_read=False))
        file = msgspec.convert(table, _CredentialFile)
    except SecretError as error:
        raise ConfigError([str(error)]) from None
    except (tomllib.TOMLDecodeError, RecursionError):
        # The decoder's text may quote the line, and the line is a secret.
        raise ConfigError([f"{path}: not TOML; expected access_key_id and secret_access_key"]) from None
    except msgspec.ValidationError:
        # Its text may quote a key, and someone may have put the secret there.
        raise ConfigError([f"{path}: expected access_key_id and secret_access_key, both texts, and no more"]) from None
    credential = Credential(file.access_key_id, file.secret_access_key)
    if problem := credential.problem():
        raise ConfigError([f"{path}: {problem}"])
    return credential

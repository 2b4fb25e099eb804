"""A key store's SigV4 credentials: a directory with one private TOML file each."""

import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.config.errors import ConfigError
from xksproxy.config.secret import SecretError, read_private_file, sync_directory, write_private_file
from xksproxy.sigv4.keyring import Credential

CREDENTIAL_SUFFIX: Final = ".toml"
"""How the name of a credential file ends; files of other names are no credentials."""

RETIRED_SUFFIX: Final = ".retired"
"""What is added to the name of a credential file that is in use no more."""


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential with its file."""

    credential: Credential
    path: Path
    created: datetime
    """As the file says; where it says nothing, the time at which the file was last written. UTC."""


class _CredentialFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key_id: str
    secret_access_key: str
    created: datetime | None = None


def load_credentials(directory: Path) -> tuple[Credential, ...]:
    """The credentials of a directory. All of them verify, so old and new can overlap (R-AUTH-11).

    Raises:
        ConfigError: see :func:`read_credentials`.
    """
    return tuple(stored.credential for stored in read_credentials(directory))


def read_credentials(directory: Path) -> tuple[StoredCredential, ...]:
    """Read every ``*.toml`` of a directory, in the order of their names.

    Raises:
        ConfigError: a file is readable by others or malformed, an access key id comes twice (R-AUTH-5), or there is
            no credential at all.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == CREDENTIAL_SUFFIX)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{directory}: {reason}; expected a directory with a file per credential"]) from None
    problems: list[str] = []
    found: dict[str, StoredCredential] = {}
    for path in files:
        try:
            stored = _read_credential(path)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        access_key_id = stored.credential.access_key_id
        if access_key_id in found:
            problems.append(f"{path}: another file of this directory has the same access_key_id")
        found[access_key_id] = stored
    if not files:
        problems.append(f"{directory}: it holds no credential; expected at least one file named *{CREDENTIAL_SUFFIX}")
    if problems:
        raise ConfigError(problems)
    return tuple(found.values())


def read_credential_file(path: Path) -> Credential:
    """The credential of a single file.

    Raises:
        ConfigError: the file is readable by others or malformed.
    """
    return _read_credential(path).credential


def save_credential(directory: Path, credential: Credential, created: datetime | None = None) -> Path:
    """Write a credential to a new file of mode 0600 and return its path.

    Raises:
        FileExistsError: there is a file for its access key id.
        OSError: the file cannot be written.
    """
    path = directory / f"{credential.access_key_id}{CREDENTIAL_SUFFIX}"
    text = f'access_key_id = "{credential.access_key_id}"\nsecret_access_key = "{credential.secret_access_key}"\n'
    if created is not None:
        text += f"created = {created.isoformat()}\n"
    write_private_file(path, text)
    return path


def retire_credential_file(path: Path) -> Path:
    """Rename a credential file so that it is loaded no more; to what. Renaming it back undoes that.

    Raises:
        FileExistsError: the name is taken.
        OSError: the file cannot be renamed.
    """
    retired = path.with_name(path.name + RETIRED_SUFFIX)
    if retired.exists():
        raise FileExistsError(0, "it is in the way; move or delete it", str(retired))
    path.rename(retired)
    sync_directory(path.parent)
    return retired


@contextmanager
def credential_directory_lock(directory: Path) -> Iterator[None]:
    """Let no other process that asks for the same change a directory of credentials meanwhile (OSError)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_credential(path: Path) -> StoredCredential:
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
        expected = "access_key_id and secret_access_key, both texts, perhaps created, a date and time, and no more"
        raise ConfigError([f"{path}: expected {expected}"]) from None
    credential = Credential(file.access_key_id, file.secret_access_key)
    if problem := credential.problem():
        raise ConfigError([f"{path}: {problem}"])
    return StoredCredential(credential, path, _created(path, file.created))


def _created(path: Path, stated: datetime | None) -> datetime:
    if stated is None:
        try:
            return datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from None
    return (stated if stated.tzinfo else stated.replace(tzinfo=UTC)).astimezone(UTC)

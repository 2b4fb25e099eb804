"""The SigV4 credentials of a key store: a directory with one private TOML file for each."""

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
from xksproxy.config.toml_problems import toml_position
from xksproxy.decoding import convert
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.pasted import wrapping_problem

CREDENTIAL_SUFFIX: Final = ".toml"
"""The end of the name of a credential file. Other files are ignored."""

RETIRED_SUFFIX: Final = ".retired"
"""The suffix that is added to the name of a retired credential file."""


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential with its file."""

    credential: Credential
    path: Path
    created: datetime
    """From the file, else the time of its last change. UTC."""


class _CredentialFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key_id: str
    secret_access_key: str
    created: datetime | None = None


def load_credentials(directory: Path) -> tuple[Credential, ...]:
    """The credentials of a directory. All are valid, so an old and a new one can overlap (R-AUTH-11).

    Raises:
        ConfigError: see :func:`read_credentials`.
    """
    return tuple(stored.credential for stored in read_credentials(directory))


def read_credentials(directory: Path) -> tuple[StoredCredential, ...]:
    """Read each ``*.toml`` of a directory, in the order of their names.

    Raises:
        ConfigError: a file is readable by others or malformed, two files have the same access key id (R-AUTH-5),
            or there is no credential.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == CREDENTIAL_SUFFIX)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{directory}: {reason}; expected a directory with one file for each credential"]) from None
    problems: list[str] = []
    credentials: dict[str, StoredCredential] = {}
    for path in files:
        try:
            stored = _read_credential(path)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        access_key_id = stored.credential.access_key_id
        if access_key_id in credentials:
            problems.append(f"{path}: another file of this directory has the same access_key_id")
        credentials[access_key_id] = stored
    if not files:
        problems.append(f"{directory}: it holds no credential; expected at least one file named *{CREDENTIAL_SUFFIX}")
    if problems:
        raise ConfigError(problems)
    return tuple(credentials.values())


def read_credential_file(path: Path) -> Credential:
    """Read the credential of one file.

    Raises:
        ConfigError: the file is readable by others or malformed.
    """
    return _read_credential(path).credential


def save_credential(directory: Path, credential: Credential, created: datetime | None = None) -> Path:
    """Write a credential to a new file of mode 0600 and return its path.

    Raises:
        FileExistsError: a file for this access key id exists.
        OSError: the file cannot be written.
    """
    path = directory / f"{credential.access_key_id}{CREDENTIAL_SUFFIX}"
    text = f'access_key_id = "{credential.access_key_id}"\nsecret_access_key = "{credential.secret_access_key}"\n'
    if created is not None:
        text += f"created = {created.isoformat()}\n"
    write_private_file(path, text)
    return path


def retire_credential_file(path: Path) -> Path:
    """Rename a credential file so that it is no longer loaded, and return the new path.

    Raises:
        FileExistsError: a file of the new name exists.
        OSError: the file cannot be renamed.
    """
    retired = path.with_name(path.name + RETIRED_SUFFIX)
    if retired.exists():
        raise FileExistsError(0, "the file exists; move or delete it", str(retired))
    path.rename(retired)
    sync_directory(path.parent)
    return retired


def reinstate_credential_file(path: Path) -> Path:
    """Undo :func:`retire_credential_file`, and return the path. A file with its former name stays as it is.

    Raises:
        FileExistsError: another file has the former name.
        OSError: the file cannot be renamed.
    """
    if path.suffix != RETIRED_SUFFIX:
        return path
    former = path.with_suffix("")
    if former.exists():
        raise FileExistsError(0, "the file exists; move or delete it", str(former))
    path.rename(former)
    sync_directory(path.parent)
    return former


@contextmanager
def credential_directory_lock(directory: Path) -> Iterator[None]:
    """Lock a directory of credentials against other processes that change it (OSError if that fails)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_credential(path: Path) -> StoredCredential:
    try:
        table = tomllib.loads(read_private_file(path))
        file = convert(table, _CredentialFile)
    except SecretError as error:
        raise ConfigError([str(error)]) from None
    except msgspec.ValidationError:
        # The message may quote a key, and the secret may be there by mistake.
        expected = "the strings access_key_id and secret_access_key, and optionally created, a date and time"
        raise ConfigError([f"{path}: expected {expected}"]) from None
    except (ValueError, RecursionError) as error:
        # The decoder's message may quote the line, which may be a secret.
        expected = "expected access_key_id and secret_access_key"
        raise ConfigError([f"{path}: not TOML{toml_position(error)}; {expected}"]) from None
    credential = Credential(file.access_key_id, file.secret_access_key)
    if problem := credential.problem():
        wrapped = [f"; {name}: {pasted}" for name, value in table.items() if (pasted := wrapping_problem(str(value)))]
        raise ConfigError([f"{path}: {problem}{''.join(wrapped)}"])
    return StoredCredential(credential, path, _created(path, file.created))


def _created(path: Path, stated: datetime | None) -> datetime:
    if stated is None:
        try:
            return datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from None
        except (OverflowError, ValueError):
            raise ConfigError([f"{path}: the time of its last change is out of range; use touch"]) from None
    try:
        return (stated if stated.tzinfo else stated.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ConfigError([f"{path}: created: expected a time in the years 1 to 9999 UTC"]) from None

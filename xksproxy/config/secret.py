"""Secrets that are read from a file, an environment variable or a systemd credential, and never shown."""

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import msgspec

_OTHERS: Final = stat.S_IRWXO
_GROUP_AND_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Secret:
    """A secret string. Its repr and str hide it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret, for the call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "<secret>"


class SecretError(Exception):
    """A secret cannot be read. The message says why, and never quotes the secret."""


class SecretReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place of a secret: exactly one of three."""

    file: str | None = None
    """A file with the secret; a final line break is ignored. Others must not be able to read the file."""

    env: str | None = None
    """The name of an environment variable."""

    credential: str | None = None
    """The name of a systemd credential (``LoadCredential=``)."""


def read_secret(reference: SecretReference) -> Secret:
    """Read the secret of a reference.

    Raises:
        SecretError: the secret does not exist, is empty, or others can read it.
    """
    if [reference.file, reference.env, reference.credential].count(None) != 2:  # noqa: PLR2004 - two of three absent
        raise SecretError('expected exactly one of { file = "…" }, { env = "…" } and { credential = "…" }')
    if reference.env is not None:
        text = os.environ.get(reference.env)
        if not text:
            raise SecretError(f"the environment variable {reference.env} is not set")
        return Secret(text)
    if reference.credential is not None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory is None:
            raise SecretError("CREDENTIALS_DIRECTORY is not set: systemd sets it only for a unit with credentials")
        return Secret(_read_file(Path(directory, reference.credential)))
    return Secret(read_private_file(Path(reference.file or "")))


def read_private_file(path: Path, *, group_may_read: bool = True) -> str:
    """The content of a file that holds a secret, without the final line break.

    Raises:
        SecretError: it cannot be read, is empty, or others can read it (or the group, without ``group_may_read``).
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise SecretError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if mode & (_OTHERS if group_may_read else _GROUP_AND_OTHERS):
        raise SecretError(f"{path}: its mode is {mode & 0o777:04o}; it holds a secret, so make it 0600")
    return _read_file(path)


def write_private_file(path: Path, text: str) -> None:
    """Write a new file that only its owner can read. The file is complete and on disk when this returns.

    If root writes the file, the owner of the directory becomes its owner.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fsync(descriptor)
        # A link, because a rename would replace an existing file.
        path.hardlink_to(partial)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "the file exists; delete it or choose another name", str(path)) from None
    finally:
        partial.unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename in a directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretError(f"{path}: it is not UTF-8 text") from None
    if not text:
        raise SecretError(f"{path}: it is empty")
    return text

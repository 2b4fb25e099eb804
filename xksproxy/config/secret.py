"""Secrets that are read from a file, an environment variable or a systemd credential, and never shown."""

import errno
import os
import re
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.config.access_list import READ, acl_problem
from xksproxy.config.regular_file import FileRefused, NotRegular, named_errors, read_regular_file, text_of
from xksproxy.config.service_user import ServiceUser

MAXIMUM_SECRET_BYTES: Final = 64 * 1024
MAXIMUM_PIN_BYTES: Final = 4096
_NEVER: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
_PARTIAL: Final = re.compile(r"\.[0-9a-f]{16}\.partial")
_CREDENTIAL_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[^/\0]{1,255}")
_LEFTOVER_SECONDS: Final = 60.0
"""No writer needs more time."""

_OTHER_SOURCES: Final = 'or { env = "…" } or { credential = "…" } in the configuration'


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


class SecretOfService(SecretError):
    """The secret is a credential that systemd gives to the service alone, and this process is a command beside it."""


class SecretReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place of a secret: exactly one of three."""

    file: str | None = None
    """A file with the secret; one line break at its end is ignored. Others must not be able to read the file."""

    env: str | None = None
    """The name of an environment variable."""

    credential: str | None = None
    """The name of a systemd credential (``LoadCredential=``)."""


class SecretHolder:
    """A secret that was read once for all threads of a process. ``current`` is replaced when its source changes."""

    __slots__ = ("current",)

    def __init__(self, secret: Secret) -> None:
        self.current = secret

    def __eq__(self, other: object) -> bool:
        """Two configurations are equal if their secrets have the same source; the content may change at any time."""
        return isinstance(other, SecretHolder)

    __hash__ = None  # type: ignore[assignment]  # nothing that can be changed is a key

    def __repr__(self) -> str:
        return "<secret>"


class HeldSecret(SecretReference, frozen=True, kw_only=True):
    """A reference whose secret was read already: :func:`read_secret` opens no file for it."""

    holder: SecretHolder


def hold_secret(reference: SecretReference, maximum_bytes: int = MAXIMUM_SECRET_BYTES) -> HeldSecret:
    """Read the secret of a reference, now and for all.

    Raises:
        SecretError: see :func:`read_secret`.
    """
    secret = read_source(reference, maximum_bytes)
    return HeldSecret(reference.file, reference.env, reference.credential, holder=SecretHolder(secret))


def read_secret(reference: SecretReference, maximum_bytes: int = MAXIMUM_SECRET_BYTES) -> Secret:
    """The secret of a reference: the one that is held, or else the one at its source.

    Raises:
        SecretError: see :func:`read_source`.
    """
    if isinstance(reference, HeldSecret):
        return reference.holder.current
    return read_source(reference, maximum_bytes)


def read_source(reference: SecretReference, maximum_bytes: int = MAXIMUM_SECRET_BYTES) -> Secret:
    """Read the secret of a reference from its file, environment variable or systemd credential.

    One line break at the end does not belong to the secret.

    Raises:
        SecretError: the secret does not exist, is empty, too long or not plain text, or others can read it.
        SecretOfService: it is a systemd credential, and this process has none.
    """
    if [reference.file, reference.env, reference.credential].count(None) != 2:  # noqa: PLR2004 - two of three absent
        raise SecretError('expected exactly one of { file = "…" }, { env = "…" } and { credential = "…" }')
    if reference.env is not None:
        return _variable(reference.env, maximum_bytes)
    if reference.credential is None:
        path = Path(reference.file or "")
        return checked_secret(read_private_file(path, maximum_bytes), str(path))
    if not _CREDENTIAL_NAME.fullmatch(reference.credential):
        # Owner and mode of a systemd credential are not checked, so no other file may pass for one.
        raise SecretError(f"{reference.credential}: expected the name of a systemd credential, which is no path")
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise SecretOfService(
            f"CREDENTIALS_DIRECTORY is not set: systemd gives the credential {reference.credential} to the service only"
        )
    path = Path(directory, reference.credential)
    # systemd guards the directory itself, and chooses the modes of the files.
    return checked_secret(_read_text(path, maximum_bytes)[0], str(path))


def source_file(reference: SecretReference) -> Path | None:
    """The file that a reference is read from, or None for an environment variable."""
    if reference.file is not None:
        return Path(reference.file)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if reference.credential is None or not directory:
        return None
    return Path(directory, reference.credential)


def checked_secret(text: str, source: str) -> Secret:
    """The secret in a text, without one line break at the end.

    Raises:
        SecretError: it is empty, or has a character that was hardly meant: a byte-order mark, a NUL, or a blank or line
            break at either end. Each try with such a PIN could cost one of the few that a token permits.
    """
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if not text:
        raise SecretError(f"{source}: it is empty")
    if text.startswith("\ufeff"):
        raise SecretError(f"{source}: it begins with a byte-order mark; save it as UTF-8 without one")
    if "\0" in text:
        raise SecretError(f"{source}: it has a NUL byte; expected UTF-8 text")
    if text != text.strip():
        raise SecretError(
            f"{source}: it has a blank or a line break at its beginning or end, besides one final line break;"
            " remove it, for example by writing the file with: printf %s"
        )
    return Secret(text)


def read_private_file(path: Path, maximum_bytes: int = MAXIMUM_SECRET_BYTES) -> str:
    """The text of a file that holds a secret.

    The file belongs to root or to the user of this process. Its mode is 0600 or 0400, or else 0640 or 0440 with a group
    of this process, as Kubernetes makes it. No ACL lets others read it. Root may read the files of every service, so
    owner, group and ACL of a file that root reads are checked by :mod:`xksproxy.config.access_checks`.

    Raises:
        SecretError: it cannot be read, is not a regular file, is too long, is not plain text, or others can reach it.
    """
    text, status = _read_text(path, maximum_bytes)
    user = ServiceUser.current()
    if problem := access_problem(path, status, None if user.uid == 0 else user):
        raise SecretError(f"{path}: {problem}")
    if not text.strip():
        raise SecretError(f"{path}: it is empty")
    return text


def access_problem(file: Path, status: os.stat_result, user: ServiceUser | None) -> str | None:
    """Why a file with this owner, mode and ACL must not hold a secret of a user, or None.

    Without a user the mode alone counts.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & _NEVER:
        return f"its mode is {mode:04o}; it holds a secret, so make it 0600"
    if user is None:
        return None
    if status.st_uid not in (0, user.uid):
        return f"it belongs to user {status.st_uid}, who can change it; expected root or user {user.uid}, who runs this"
    if mode & stat.S_IRGRP and status.st_gid not in user.groups:
        return (
            f"its mode is {mode:04o}, so group {status.st_gid} can read it, which is not a group of user {user.uid};"
            " it holds a secret, so make it 0600"
        )
    return acl_problem(file, READ, user)


def write_private_file(path: Path, text: str) -> None:
    """Write a new file that only its owner can read. The file is complete and on disk when this returns.

    If root writes the file, the owner of the directory becomes its owner. What a killed process left of such a file in
    the directory is removed, because it has a secret.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written, and there is no file.
    """
    _remove_leftovers(path.parent)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with named_errors(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
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
    try:
        sync_directory(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _remove_leftovers(directory: Path) -> None:
    with suppress(OSError):
        for path in directory.iterdir():
            if _PARTIAL.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _LEFTOVER_SECONDS:
                path.unlink()


def sync_directory(directory: Path) -> None:
    """Make a rename in a directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _variable(name: str, maximum_bytes: int) -> Secret:
    # A byte that is not UTF-8 is a lone surrogate in os.environ.
    text = os.environ.get(name, "")
    if not text:
        raise SecretError(f"the environment variable {name} is not set")
    source = f"the environment variable {name}"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise SecretError(f"{source}: it is not UTF-8 text")
    if len(text.encode()) > maximum_bytes:
        raise SecretError(f"{source}: it has more than {maximum_bytes} bytes, which is the most that is read")
    return checked_secret(text, source)


def _read_text(path: Path, maximum_bytes: int) -> tuple[str, os.stat_result]:
    try:
        file = read_regular_file(path, maximum_bytes)
        return text_of(path, file.content), file.status
    except NotRegular as error:
        raise SecretError(f"{error}, {_OTHER_SOURCES}") from None
    except FileRefused as error:
        raise SecretError(str(error)) from None

"""Files in a directory of one user: opened without following links, checked after opening, replaced as a whole."""

import ctypes
import errno
import os
import pwd
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from xksproxy.config.access_list import CHANGE, acl_problem
from xksproxy.config.service_user import ServiceUser

PARTIAL_SUFFIX: Final = ".partial"
"""The end of the names of temporary files. Those of killed writers may be removed."""

MAXIMUM_BYTES: Final = 64 * 1024 * 1024
"""The most that a file may have to be read or written. 100,000 blocks with long names and reasons have half as many."""

_SAFE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UnsafeFile(OSError):
    """A file or directory that another user may have made, or can change."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.EPERM, problem)


def make_directory(directory: Path) -> None:
    """Make a private directory if it is missing and can be made. Whoever uses it finds out if it cannot."""
    with suppress(OSError):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def opened_directory(root: Path, *below: str, create: bool = False) -> Iterator[int]:
    """Yield a descriptor of ``root`` or of a directory below it. ``root`` may be a symbolic link, the others not.

    With ``create``, missing directories below ``root`` are made. ``root`` itself never is: if it has vanished, an empty
    one would look like state without blocks.

    Raises:
        UnsafeFile: a directory is a link, belongs to another user than this one and root, or others can write to it.
        OSError: it cannot be opened or, with ``create``, made.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_private_directory(descriptor, root.name)
        for name in below:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=descriptor)
            inner = _open(name, os.O_RDONLY | os.O_DIRECTORY | _SAFE, descriptor)
            os.close(descriptor)
            descriptor = inner
            _require_private_directory(descriptor, name)
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(name: str, flags: int, directory: int) -> int:
    """Open a file of a directory, without waiting, and return the descriptor.

    Raises:
        UnsafeFile: it is not a regular file, belongs to another user, or others can write to it.
        OSError: it cannot be opened.
    """
    descriptor = _open(name, flags | _SAFE, directory)
    try:
        _require_private_file(descriptor, name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_file(name: str, directory: int) -> bytes:
    """The content of a file; it raises as :func:`open_file` does, and OSError if it has too many bytes."""
    with os.fdopen(open_file(name, os.O_RDONLY, directory), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        _require_size(name, size)
        return file.read(size)


def replace_file_of(name: str, content: bytes, directory: int, *, sync_directory: bool = True) -> None:
    """Replace a file atomically, and sync file and directory to disk.

    Raises:
        OSError: it cannot be written. The old file stays, unless only the sync of the directory failed.
    """
    partial = _write_partial(name, content, directory, os.fsync)
    _rename({partial: name}, directory)
    if sync_directory:
        try:
            os.fsync(directory)
        except OSError as error:
            problem = f"{error.strerror}; the change is in force, but a power failure may undo it"
            raise OSError(error.errno, problem) from error


def replace_files_of(contents: Mapping[str, bytes], directory: int) -> None:
    """Replace several files, each atomically, with one sync of the file system for all of them.

    Raises:
        OSError: one cannot be written. Some files may be replaced.
    """
    partials: dict[str, str] = {}
    try:
        for name, content in contents.items():
            partials[_write_partial(name, content, directory, lambda _: None)] = name
        _sync_file_system(directory)
    except BaseException:
        _remove(partials, directory)
        raise
    _rename(partials, directory)
    os.fsync(directory)


def _write_partial(name: str, content: bytes, directory: int, sync: Callable[[int], None]) -> str:
    """Write a file beside the one that it is to replace, and return its name."""
    _require_size(name, len(content))
    partial = f".{name[:50]}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            sync(descriptor)
    except BaseException:
        _remove((partial,), directory)
        raise
    return partial


def _rename(partials: Mapping[str, str], directory: int) -> None:
    left = dict(partials)
    try:
        for partial, name in partials.items():
            os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
            del left[partial]
    except BaseException:
        _remove(left, directory)
        raise


def _remove(partials: Iterable[str], directory: int) -> None:
    for partial in partials:
        with suppress(OSError):
            os.unlink(partial, dir_fd=directory)


def _sync_file_system(directory: int) -> None:
    """Sync all that was written to the file system of a directory (syncfs(2))."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.syncfs(directory) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _open(name: str, flags: int, directory: int) -> int:
    try:
        return os.open(name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        if _is_link(name, directory):
            raise UnsafeFile(f"{name} is a symbolic link, which is not followed; remove it") from None
        if isinstance(error, NotADirectoryError):
            raise UnsafeFile(f"{name} is not a directory; remove it") from None
        raise


def _require_size(name: str, size: int) -> None:
    if size > MAXIMUM_BYTES:
        raise OSError(errno.EFBIG, f"{name} has {size} bytes; at most {MAXIMUM_BYTES} are read and written")


def _is_link(name: str, directory: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _require_private_file(descriptor: int, name: str) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFile(f"{name} is not a regular file; remove it")
    if status.st_uid != os.geteuid():
        owner, expected = user_name(status.st_uid), user_name(os.geteuid())
        raise UnsafeFile(f"{name} belongs to {owner}, expected {expected}; change its owner if you trust its content")
    _require_not_writable_by_others(descriptor, status.st_mode, name, "0600")


def _require_private_directory(descriptor: int, name: str) -> None:
    """Root is accepted as owner, because a Kubernetes volume belongs to root, and the pod's group can write to it."""
    status = os.fstat(descriptor)
    if status.st_uid not in (0, os.geteuid()):
        expected = user_name(os.geteuid())
        raise UnsafeFile(f"the directory {name} belongs to {user_name(status.st_uid)}, expected {expected}")
    _require_not_writable_by_others(descriptor, status.st_mode, name, "0700")


def _require_not_writable_by_others(descriptor: int, mode: int, name: str, expected: str) -> None:
    if mode & stat.S_IWOTH:
        raise UnsafeFile(f"others can write to {name}: its mode is {mode & 0o7777:04o}; make it {expected}")
    # The mode of the group is the mask of an ACL. Without it an ACL gives nothing, which saves a system call.
    if mode & stat.S_IWGRP and (problem := acl_problem(descriptor, CHANGE, ServiceUser.current())):
        raise UnsafeFile(f"{name}: {problem}")


def user_name(user_id: int) -> str:
    """The name of a user, or the number if it has no name."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"

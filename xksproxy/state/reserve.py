"""A file that keeps some space of the disk, so that a block can be written although the disk is full."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from xksproxy.state.private_files import open_file, opened_directory
from xksproxy.state.state_file import StateUnusable

_NAME: Final = "reserve"
_BYTES: Final = 256 * 1024
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

Result = TypeVar("Result")


def keep_reserve(state_directory: Path) -> None:
    """Make the file if it is missing, and if as much room is left beside it. Call it again from time to time.

    What has another name too is another file, and stays as it is.
    """
    with suppress(OSError), opened_directory(state_directory) as directory:
        descriptor = open_file(_NAME, os.O_WRONLY | os.O_CREAT, directory)
        try:
            if os.fstat(descriptor).st_nlink == 1:
                _fill(descriptor)
        finally:
            os.close(descriptor)


def _fill(descriptor: int) -> None:
    free = os.fstatvfs(descriptor)
    if os.fstat(descriptor).st_size >= _BYTES or free.f_bavail * free.f_frsize < 2 * _BYTES:
        return
    try:
        os.posix_fallocate(descriptor, 0, _BYTES)
    except OSError:
        os.ftruncate(descriptor, 0)


def with_reserve(state_directory: Path, write: Callable[[], Result]) -> Result:
    """Call ``write``. If the disk is full, remove the file and call it again.

    Raises:
        StateUnusable: it cannot be written.
    """
    try:
        return write()
    except StateUnusable as error:
        if not _is_full(error):
            raise
        with suppress(OSError), opened_directory(state_directory) as directory:
            os.unlink(_NAME, dir_fd=directory)
    return write()


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False

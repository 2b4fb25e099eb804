"""Small files of the runtime directory, which lies in memory: replaced as a whole, without a sync."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

MAXIMUM_BYTES: Final = 64 * 1024 * 1024
"""The maximum of what is read from a file. No process writes as much."""


def replace_runtime_file(path: Path, content: bytes) -> None:
    """Replace a file atomically. Several processes may do so at the same moment: the last one wins.

    Raises:
        OSError: it cannot be written. The old file stays.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        partial.rename(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def open_runtime_file(path: Path) -> int:
    """Open a file for reading, and return the descriptor. It never waits, as a named pipe without a writer would.

    Raises:
        OSError: it cannot be opened, is no regular file, or belongs to another user than this one and root.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path} is not a regular file, or belongs to another user")
    return descriptor


def read_runtime_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be opened, is no regular file, or has more than 64 MiB.
    """
    with os.fdopen(open_runtime_file(path), "rb") as file:
        content = file.read(MAXIMUM_BYTES + 1)
    if len(content) > MAXIMUM_BYTES:
        raise OSError(errno.EFBIG, f"{path} has more than {MAXIMUM_BYTES} bytes")
    return content

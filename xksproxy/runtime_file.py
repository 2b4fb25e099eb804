"""Small files of the runtime directory, which lies in memory: replaced as a whole, without a sync."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


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
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path} is not a regular file")
    return descriptor


def read_runtime_file(path: Path) -> bytes:
    """The content of a file; it raises as :func:`open_runtime_file` does."""
    with os.fdopen(open_runtime_file(path), "rb") as file:
        return file.read()

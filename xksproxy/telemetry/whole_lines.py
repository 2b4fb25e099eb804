"""Lines for a pipe, a socket or a file that several processes write to at once: none is cut by another."""

import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def first_lines(data: bytes, most: int) -> bytes:
    """The first lines of ``data``: as many as fit into ``most`` bytes, or a longer first line alone."""
    return data[: data.rfind(b"\n", 0, most) + 1 or data.find(b"\n") + 1 or len(data)]


def write_first_lines(descriptor: int, data: bytes) -> tuple[int, int]:
    """Write the first lines. Returns how many bytes of ``data`` they are, and how many of these were written.

    A pipe takes PIPE_BUF bytes whole or not at all, also if it is almost full or the process is killed. A longer line
    is written under a lock that all processes take. Fewer bytes are written only after an error in the middle of a
    line, which the next call raises.

    Raises:
        OSError: nothing was written.
    """
    lines = first_lines(data, select.PIPE_BUF)
    written = 0
    with _alone(descriptor):
        while written < len(lines):
            try:
                written += os.write(descriptor, lines[written:])
            except BlockingIOError:  # another process has set O_NONBLOCK on what it shares with this one
                select.select((), (descriptor,), ())
            except OSError:
                if not written:
                    raise
                break
    return len(lines), written


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """While no other process writes. Where locks are not supported, only lines longer than PIPE_BUF may be cut."""
    with suppress(OSError):
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)

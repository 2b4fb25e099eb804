"""The directory that the workers of one service share while it runs: metrics, worker status, quotas."""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from xksproxy.server.directory_identity import DirectoryIdentity

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
_PREFIX: Final = "xksproxy-"


def make_runtime_directory() -> Path:
    """Make a private directory that is removed with this process, in memory if possible.

    systemd's RuntimeDirectory and /dev/shm are in memory. If one has no room for a directory, the next one is used.
    Directories of services that were killed are removed.

    Raises:
        OSError: it cannot be made.
    """
    directory = _make_in(_parents())
    # This process and, after the fork, its workers hold the lock: the directory is in use while one of them runs.
    fcntl.flock(os.open(directory, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH)
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory


class RuntimeCheck(DirectoryIdentity):
    """Checks that the directory exists. systemd removes it if another unit with the same RuntimeDirectory= stops."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory,
            f"the runtime directory {directory} was removed while the proxy runs; restart the proxy, and let no"
            " other service use its directory",
        )

    @property
    def is_lost(self) -> bool:
        """Whether it is lost; also if it was gone already when this process started."""
        return super().is_lost or self._descriptor is None


def _parents() -> Iterator[Path]:
    """The directories in which it may be made, the best one first."""
    if systemd := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        yield Path(systemd)
    if os.access(_MEMORY, os.W_OK | os.X_OK):
        yield _MEMORY
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:
        return
    yield Path(temporary)


def _make_in(parents: Iterator[Path]) -> Path:
    problems: list[str] = []
    for parent in parents:
        _remove_abandoned(parent)
        try:
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError as error:
            problems.append(str(error))
    reason = "; ".join(problems) or f"{_MEMORY} and the directories for temporary files are missing or read-only"
    raise OSError(
        f"the workers have no place for a runtime directory: {reason}; mount {_MEMORY}, or set RUNTIME_DIRECTORY or"
        " TMPDIR to a directory that this user can write"
    )


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with _held(path) as ours:
            if ours:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Yield whether a directory belongs to this user and no process uses it. The lock is held during the block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor).st_uid == os.getuid()
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)

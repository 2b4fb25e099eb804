"""Whether a directory is still the one that was there before."""

import fcntl
import os
import weakref
from contextlib import suppress
from pathlib import Path

from xksproxy.state.private_files import make_directory
from xksproxy.state.state_file import MANIFEST


class DirectoryIdentity:
    """A directory as it was when it was first seen. Links in its path are followed.

    It is kept open. Otherwise a directory that is made after its removal could get the same inode.
    """

    def __init__(self, directory: Path, if_lost: str = "the directory is lost") -> None:
        """``if_lost`` says what has happened if it is lost."""
        self._directory = directory
        self._if_lost = if_lost
        self._descriptor = self._open()

    @property
    def problem(self) -> str:
        """Why the directory must not be used; empty if it is the same as before. It asks the file system."""
        return self._if_lost if self.is_lost else ""

    @property
    def is_lost(self) -> bool:
        """Whether the directory was removed, moved away, or replaced by another one. It asks the file system."""
        if self._descriptor is None:
            self._descriptor = self._open()
            return False
        try:
            return not os.path.samestat(os.fstat(self._descriptor), self._directory.stat())
        except OSError:
            return True

    def _open(self) -> int | None:
        try:
            descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        weakref.finalize(self, os.close, descriptor)
        return descriptor


class StateIdentity(DirectoryIdentity):
    """The state directory of a service. Another directory at its path may lack blocks, and never counts as empty state.

    The master makes it before it starts workers, so that a worker that starts later knows which directory it was.
    """

    def __init__(self, directory: Path) -> None:
        """Make the directory if it is missing."""
        make_directory(directory)
        super().__init__(
            directory,
            f"the state directory {directory} was removed, moved away or replaced while the proxy runs, or its"
            f" {MANIFEST} was; put it back, or restart the proxy to use what is there now",
        )
        make_directory(directory / MANIFEST)
        self._manifest = DirectoryIdentity(directory / MANIFEST)
        self._lock_manifest(directory / MANIFEST)

    @property
    def is_lost(self) -> bool:
        """The same for the manifest too, without which a file that is missing would count as never written."""
        return super().is_lost or self._manifest.is_lost

    def _lock_manifest(self, manifest: Path) -> None:
        """Lock it as long as this process or a child of it runs; see :func:`is_in_use_by_proxy`."""
        with suppress(OSError):  # then only the record of proxies tells commands
            descriptor = os.open(manifest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def is_in_use_by_proxy(state_directory: Path) -> bool:
    """Whether a proxy that runs has locked a state directory, as far as its file system tells."""
    return is_locked(state_directory / MANIFEST)


def is_locked(directory: Path) -> bool:
    """Whether another process holds the lock of a directory. No link is followed to it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without such locks
        return False
    finally:
        os.close(descriptor)
    return False

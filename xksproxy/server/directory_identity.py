"""Whether a directory is still the one that was there before."""

from pathlib import Path

from xksproxy.state.private_files import make_directory
from xksproxy.state.state_file import MANIFEST


class DirectoryIdentity:
    """Device and inode of a directory, as they were when it was first seen. Links in its path are followed."""

    def __init__(self, directory: Path, if_lost: str = "the directory is lost") -> None:
        """``if_lost`` says what has happened if it is lost."""
        self._directory = directory
        self._if_lost = if_lost
        self._first = self._inode()

    @property
    def problem(self) -> str:
        """Why the directory must not be used; empty if it is the same as before. It asks the file system."""
        return self._if_lost if self.is_lost else ""

    @property
    def is_lost(self) -> bool:
        """Whether the directory was removed, moved away, or replaced by another one. It asks the file system."""
        self._first = self._first or self._inode()
        return self._first is not None and self._inode() != self._first

    def _inode(self) -> tuple[int, int] | None:
        try:
            found = self._directory.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


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

    @property
    def is_lost(self) -> bool:
        """The same for the manifest too, without which a file that is missing would count as never written."""
        return super().is_lost or self._manifest.is_lost

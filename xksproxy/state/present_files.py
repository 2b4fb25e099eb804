"""Which files of a state directory exist or are recorded, from one listing: to ask for each of thousands is slow."""

import os
from contextlib import suppress
from pathlib import Path

from xksproxy.state.private_files import opened_directory
from xksproxy.state.state_file import MANIFEST


class PresentFiles:
    """The names of the files of a state directory, and of those that its manifest records, when it was listed."""

    def __init__(self, state_directory: Path) -> None:
        self._names: frozenset[str] | None = None
        """None if the directory cannot be listed."""
        with suppress(OSError), opened_directory(state_directory) as directory:
            names = os.listdir(directory)  # noqa: PTH208 - a descriptor
            with suppress(FileNotFoundError), opened_directory(state_directory, MANIFEST) as manifest:
                names += os.listdir(manifest)  # noqa: PTH208 - a descriptor
            self._names = frozenset(names)

    def lack(self, name: str) -> bool:
        """Whether a file is certainly neither there nor recorded. If the directory cannot be listed, none is."""
        return self._names is not None and name not in self._names

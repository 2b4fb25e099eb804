"""Checks the files that are read only when a key is used for the first time. Without them, nothing else fails."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xksproxy.state.state_file import StateFile, StateUnusable

_NAMES: Final = ("fingerprints.json", "usage-names.json")


class FirstUseFiles:
    """Reads each file again after it has changed, and says whether it can be used."""

    def __init__(self, state_directory: Path, known: Mapping[str, int] = MappingProxyType({})) -> None:
        """``known`` has revisions that files are known to have had, by their names."""
        self._files = [StateFile(state_directory, name) for name in _NAMES]
        for file in self._files:
            file.note_written(known.get(file.name, -1))
        self._usable: dict[str, tuple[int, ...]] = {}
        """The signature with which each file could be used."""
        self.problem = ""
        """Why keys cannot be used for the first time. Empty if they can."""

    def refresh(self) -> None:
        """Look at the files again. It waits for the disk: call it on a thread."""
        try:
            for file in self._files:
                self._check(file)
        except StateUnusable as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def _check(self, file: StateFile) -> None:
        signature = file.signature()
        if signature is None or signature != self._usable.get(file.name):
            file.read()
            if signature is not None:
                self._usable[file.name] = signature

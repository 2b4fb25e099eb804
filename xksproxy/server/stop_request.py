"""How a worker asks for the end of the whole service."""

import mmap
from typing import Final

_BYTES: Final = 4096


class StopRequest:
    """The reason why the service has to stop, in anonymous memory that the master and its workers share.

    A file could not be written where a file system is full, which is one of the reasons to stop.
    """

    def __init__(self) -> None:
        """Made by the master before it starts workers."""
        self._memory = mmap.mmap(-1, _BYTES)

    def ask(self, reason: str) -> None:
        """Ask the master to stop the service within a second. The first reason stays."""
        if not self.reason:
            text = reason.encode(errors="replace")[: _BYTES - 1]
            self._memory[: len(text)] = text

    @property
    def reason(self) -> str:
        """The reason; empty if no worker has asked."""
        return self._memory[:].partition(b"\0")[0].decode(errors="replace")

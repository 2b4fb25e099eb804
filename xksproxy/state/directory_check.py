"""Checks that the state directory can be written. If it cannot, no encryption is counted, so none is made."""

import logging
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from xksproxy.state.private_files import PARTIAL_SUFFIX
from xksproxy.state.reserve import keep_reserve
from xksproxy.state.state_file import StateUnusable, file_lock, replace_file

_log: Final = logging.getLogger(__name__)
_CHECK_SECONDS: Final = 10.0
_LOCK_SECONDS: Final = 1.0
_LEFTOVER_SECONDS: Final = 60.0
"""No writer needs more time. An older temporary file was left by a writer that was killed."""


class StateDirectoryCheck:
    """Writes a file to the state directory every 10 s, and once removes temporary files that killed writers left."""

    def __init__(self, state_directory: Path) -> None:
        self._path = state_directory / "check.json"
        self._checked_at = -math.inf
        self._is_clean = False
        self.problem = ""
        """Why the last write failed; empty if it succeeded."""

    def refresh(self) -> None:
        """Write again if 10 s have passed. Waits for the disk, so call it on a thread."""
        now = time.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            with file_lock(self._path, _LOCK_SECONDS):
                replace_file(self._path, b"{}")
        except StateUnusable as error:
            if str(error) != self.problem:
                _log.error("state directory cannot be written", extra={"fields": {"reason": str(error)}})
            self.problem = str(error)
        else:
            self.problem = ""
            self._remove_leftovers()
            keep_reserve(self._path.parent)

    def _remove_leftovers(self) -> None:
        if self._is_clean:
            return
        self._is_clean = True
        with suppress(OSError):
            for path in self._path.parent.rglob(f".*{PARTIAL_SUFFIX}"):
                if time.time() - path.lstat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()

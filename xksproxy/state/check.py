"""Whether the state directory can be written: without it no encryption is counted, and so none is made."""

import logging
import math
import time
from pathlib import Path
from typing import Final

from xksproxy.state.statefile import StateUnusable, locked, replace

_log: Final = logging.getLogger(__name__)
_CHECK_SECONDS: Final = 10.0
_LOCK_SECONDS: Final = 1.0


class StateCheck:
    """Tries every ten seconds."""

    def __init__(self, state_directory: Path) -> None:
        self._path = state_directory / "check.json"
        self._checked_at = -math.inf
        self.problem = ""
        """Why it cannot be written, as of the last try; empty if it can."""

    def refresh(self) -> None:
        """Try again if it is time. It waits for the disk: call it on a thread."""
        now = time.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            with locked(self._path, _LOCK_SECONDS):
                replace(self._path, b"{}")
        except StateUnusable as error:
            if str(error) != self.problem:
                _log.error("state directory cannot be written", extra={"fields": {"reason": str(error)}})
            self.problem = str(error)
        else:
            self.problem = ""

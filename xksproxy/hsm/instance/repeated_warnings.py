"""Warnings that every call may cause: the first of a kind is logged at once, the others are counted."""

import logging
import threading
import time
from typing import Final

_SUMMARY_SECONDS: Final = 10.0


class RepeatedWarnings:
    """Warnings of one HSM, by message and reason. Safe to use from any thread."""

    def __init__(self, log: logging.Logger, hsm_id: str) -> None:
        self._log = log
        self._hsm_id = hsm_id
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}
        """For each kind: the monotonic time of its log line, and the number of warnings since."""

    def warn(self, message: str, reason: str) -> None:
        """Log a warning, or count it if the same one was logged less than 10 s ago."""
        with self._lock:
            known = self._counts.get((message, reason))
            if known is not None:
                self._counts[message, reason] = (known[0], known[1] + 1)
                return
            self._counts[message, reason] = (time.monotonic(), 0)
        self._log.warning(message, extra={"fields": {"hsm": self._hsm_id, "reason": reason}})

    def summarise(self) -> None:
        """Log the number of warnings of each kind, 10 s after its log line. Call it about ten times a second."""
        due = time.monotonic() - _SUMMARY_SECONDS
        with self._lock:
            ended = {kind: count for kind, (logged_at, count) in self._counts.items() if logged_at <= due}
            for kind in ended:
                del self._counts[kind]
        for (message, reason), count in ended.items():
            if count:
                fields = {"hsm": self._hsm_id, "reason": reason, "more": count, "seconds": _SUMMARY_SECONDS}
                self._log.warning(f"{message}, repeatedly", extra={"fields": fields})

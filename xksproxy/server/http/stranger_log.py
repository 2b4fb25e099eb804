"""Log lines about connections that anybody who reaches the port can cause."""

import logging
import time
from typing import Final

from xksproxy.server.stranger_sums import StrangerSums

_log: Final = logging.getLogger(__name__)
_PERIOD_SECONDS: Final = 60.0


class StrangerLog:
    """Logs the first 50 in a minute by themselves, and the number of further ones once a minute.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._sums = StrangerSums(_PERIOD_SECONDS)
        self._written_at = time.monotonic()

    def write(self, level: int, message: str, *, reason: str, peer: str) -> None:
        """Log a connection that could not be served, or count it."""
        if self._sums.has_line(time.monotonic()):
            _log.log(level, message, extra={"fields": {"reason": reason, "peer": peer}})
        else:
            self._sums.add(peer, "", message, reason)

    def beat(self) -> None:
        """Write the sums if a minute has passed. Call it once a second."""
        if time.monotonic() - self._written_at >= _PERIOD_SECONDS:
            self.write_sums()

    def write_sums(self) -> None:
        """Write the sums of what was counted, by message, reason and network of the peer."""
        self._written_at = time.monotonic()
        for fields in self._sums.take():
            _log.warning("connections summed up", extra={"fields": {"event": fields.pop("error", "others"), **fields}})

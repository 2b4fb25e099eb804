"""Log lines about connections that anybody who reaches the port can cause."""

import logging
import time
from typing import Final

from xksproxy.server.stranger_sums import StrangerSums

_log: Final = logging.getLogger(__name__)
_PERIOD_SECONDS: Final = 60.0


class StrangerLog:
    """Lets the first 50 connections of a minute have a line each, and logs the number of further ones once a minute.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._sums = StrangerSums(_PERIOD_SECONDS)
        self._written_at = time.monotonic()

    def has_line(self, message: str, *, reason: str, peer: str) -> bool:
        """Return whether the caller should log a connection that could not be served. If not, it is counted."""
        if self._sums.has_line(time.monotonic()):
            return True
        self._sums.add(peer, "", message, reason)
        return False

    def beat(self) -> None:
        """Write the sums if a minute has passed. Call it once a second."""
        if time.monotonic() - self._written_at >= _PERIOD_SECONDS:
            self.write_sums()

    def write_sums(self) -> None:
        """Write the sums of the counted connections, by message, reason and network of the peer."""
        self._written_at = time.monotonic()
        for fields in self._sums.take():
            _log.warning("connections summed up", extra={"fields": {"event": fields.pop("error", "others"), **fields}})

"""Limits the log lines about strangers, who are not authenticated: above the limit, their requests are counted in sums.

Otherwise anybody who reaches the port could fill the disk of the log, or make the journal drop the lines of KMS.
"""

import ipaddress
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_MOST_LINES: Final = 50
_MOST_KINDS: Final = 100
_REASON_CHARACTERS: Final = 256
_PREFIX: Final = {4: 24, 6: 64}


class _Kind(NamedTuple):
    """The common fields of the requests of one sum. They are None in the sum of all kinds above the maximum."""

    peer_network: str | None
    keystore: str | None
    error: str | None
    reason: str | None


_OTHER: Final = _Kind(None, None, None, None)


class StrangerSums:
    """Decides which requests have their own line, and counts the others. Belongs to one event loop."""

    def __init__(self, seconds: float = 1.0) -> None:
        """``seconds`` is the period in which 50 lines are allowed."""
        self._seconds = seconds
        self._period = -math.inf
        self._lines = 0
        self._counts: Counter[_Kind] = Counter()

    def has_line(self, now: float) -> bool:
        """Count a request or connection, and return whether it has its own line. ``now`` is on a monotonic clock."""
        period = math.floor(now / self._seconds)
        if period != self._period:
            self._period, self._lines = period, 0
        self._lines += 1
        return self._lines <= _MOST_LINES

    def add(self, peer: str | None, keystore: str, error: str | None, reason: str | None) -> None:
        """Add a request or connection to a sum. There are at most 100 sums, and one for all other kinds."""
        kind = _Kind(_network(peer), keystore or None, error, (reason or "")[:_REASON_CHARACTERS] or None)
        if kind not in self._counts and len(self._counts) >= _MOST_KINDS:
            kind = _OTHER
        self._counts[kind] += 1

    def take(self) -> Iterator[dict[str, Any]]:
        """Yield the fields of the line of each sum, and reset the sums."""
        counts, self._counts = self._counts, Counter()
        for kind, count in counts.items():
            fields = {name: value for name, value in kind._asdict().items() if value is not None}
            yield {**fields, "count": count}


def _network(peer: str | None) -> str | None:
    """The network of a peer: /24 of IPv4, /64 of IPv6."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return None
    return str(ipaddress.ip_network(f"{address}/{_PREFIX[address.version]}", strict=False))

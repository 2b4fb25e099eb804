"""A limit for the lines that strangers can cause: above it, their refused requests and connections are counted in sums.

Without it, anybody who reaches the port could fill the disk of a log, or make a journal drop the lines of KMS.
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
    """What the requests of one sum have in common. All fields of the sum of what is beyond the most kinds are None."""

    peer_network: str | None
    keystore: str | None
    error: str | None
    reason: str | None


_OTHER: Final = _Kind(None, None, None, None)


class StrangerSums:
    """Decides what has a line of its own, and counts the rest. Belongs to one event loop."""

    def __init__(self, seconds: float = 1.0) -> None:
        """``seconds`` is the period in which 50 lines are allowed."""
        self._seconds = seconds
        self._period = -math.inf
        self._lines = 0
        self._counts: Counter[_Kind] = Counter()

    def has_line(self, now: float) -> bool:
        """Whether one more request or connection has a line. ``now`` is on a monotonic clock, in seconds."""
        period = math.floor(now / self._seconds)
        if period != self._period:
            self._period, self._lines = period, 0
        self._lines += 1
        return self._lines <= _MOST_LINES

    def add(self, peer: str | None, keystore: str, error: str | None, reason: str | None) -> None:
        """Count one without a line. There are at most 100 kinds, and one for all others."""
        kind = _Kind(_network(peer), keystore or None, error, (reason or "")[:_REASON_CHARACTERS] or None)
        if kind not in self._counts and len(self._counts) >= _MOST_KINDS:
            kind = _OTHER
        self._counts[kind] += 1

    def take(self) -> Iterator[dict[str, Any]]:
        """The fields of the line of each sum, and start anew."""
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

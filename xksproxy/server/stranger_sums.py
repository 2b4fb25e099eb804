"""A limit for the audit lines that strangers can cause: above it, their refused requests are counted in sums.

Without it, anybody who reaches the port could fill the disk of the audit log, or make a journal drop the lines of KMS.
"""

import ipaddress
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_LINES_PER_SECOND: Final = 50
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
    """Decides which refused requests have a line of their own, and counts the others. Belongs to one event loop."""

    def __init__(self) -> None:
        self._second = -math.inf
        self._lines = 0
        self._counts: Counter[_Kind] = Counter()

    def has_line(self, now: float) -> bool:
        """Whether one more request has a line: 50 in each second. ``now`` is on a monotonic clock, in seconds."""
        if math.floor(now) != self._second:
            self._second, self._lines = math.floor(now), 0
        self._lines += 1
        return self._lines <= _LINES_PER_SECOND

    def add(self, peer: str | None, keystore: str, error: str | None, reason: str | None) -> None:
        """Count a request without a line. A second has at most 100 kinds of requests, and one for all others."""
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

"""Counters and histograms that gather in memory what they hand to prometheus-client once a second.

What several processes count lies in mapped files there: each change takes a lock, asks for the process id and writes.
"""

from bisect import bisect_left

from prometheus_client import Counter, Histogram


class BufferedCounter:
    """Counts for one labelled counter. Belongs to one thread, like all of this module."""

    __slots__ = ("_counter", "_gathered")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._gathered = 0

    def inc(self) -> None:
        """Count one more."""
        self._gathered += 1

    def flush(self) -> None:
        """Add what was gathered to the counter."""
        if self._gathered:
            self._counter.inc(self._gathered)
            self._gathered = 0


class BufferedHistogram:
    """Observations for one labelled histogram."""

    __slots__ = ("_edges", "_gathered", "_histogram", "_sum")

    def __init__(self, histogram: Histogram, edges: tuple[float, ...]) -> None:
        """``edges`` are the upper bounds of its buckets, the last one infinite."""
        self._histogram = histogram
        self._edges = edges
        self._gathered = [0] * len(edges)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        """Count one amount in the first bucket that it fits."""
        self._gathered[bisect_left(self._edges, amount)] += 1
        self._sum += amount

    def flush(self) -> None:
        """Add what was gathered to the histogram; the library itself takes amounts one by one only."""
        if not any(self._gathered):
            return
        for bucket, count in zip(self._histogram._buckets, self._gathered, strict=True):  # noqa: SLF001 - see above
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(self._sum)  # noqa: SLF001 - see above
        self._gathered = [0] * len(self._edges)
        self._sum = 0.0

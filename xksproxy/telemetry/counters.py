"""Counters and histograms that count in memory and add to prometheus-client's metrics once a second.

prometheus-client keeps the values of several processes in mapped files. Each of its changes takes a lock, reads the
process id and writes, which is too slow for each request.
"""

from bisect import bisect_left

from prometheus_client import Counter, Histogram


class BufferedCounter:
    """Counts for one labelled counter. Not thread-safe, like everything in this module."""

    __slots__ = ("_counter", "_pending")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._pending = 0

    def inc(self) -> None:
        """Add one."""
        self._pending += 1

    def flush(self) -> None:
        """Add the count to prometheus-client's counter."""
        if self._pending:
            self._counter.inc(self._pending)
            self._pending = 0


class BufferedHistogram:
    """Observations for one labelled histogram. Not thread-safe."""

    __slots__ = ("_edges", "_histogram", "_pending", "_sum")

    def __init__(self, histogram: Histogram, edges: tuple[float, ...]) -> None:
        """``edges`` are the upper bounds of the histogram's buckets. The last one is infinite."""
        self._histogram = histogram
        self._edges = edges
        self._pending = [0] * len(edges)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        """Count an amount in the first bucket that it fits."""
        self._pending[bisect_left(self._edges, amount)] += 1
        self._sum += amount

    def flush(self) -> None:
        """Add the observations to prometheus-client's histogram. Its public interface takes only single amounts."""
        if not any(self._pending):
            return
        for bucket, count in zip(self._histogram._buckets, self._pending, strict=True):  # noqa: SLF001 - see above
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(self._sum)  # noqa: SLF001 - see above
        self._pending = [0] * len(self._edges)
        self._sum = 0.0

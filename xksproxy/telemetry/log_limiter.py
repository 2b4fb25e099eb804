"""A limit for log messages that would repeat: one message of a kind in a period, with the number of events."""

from collections.abc import Hashable


class LogLimiter:
    """Decides which events are logged. It remembers each kind of event, so there must be few kinds."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` is the minimum time between two logged events of a kind."""
        self._seconds = seconds
        self._logged_at: dict[Hashable, float] = {}
        self._suppressed: dict[Hashable, int] = {}

    def due(self, kind: Hashable, now: float) -> int | None:
        """Count an event. ``now`` is on a monotonic clock, in seconds.

        Returns:
            The number of events of this kind since the last one that was logged, including this one. None if this event
            must not be logged.
        """
        suppressed = self._suppressed.get(kind, 0)
        last = self._logged_at.get(kind)
        if last is not None and now - last < self._seconds:
            self._suppressed[kind] = suppressed + 1
            return None
        self._logged_at[kind], self._suppressed[kind] = now, 0
        return suppressed + 1

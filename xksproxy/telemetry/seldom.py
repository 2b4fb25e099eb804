"""Log lines that would repeat: one of a kind in a while, which says how many it stands for."""

from collections.abc import Hashable


class Seldom:
    """Says which events of a kind are to be written. The kinds must be few; it remembers each of them."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` lie at least between two events of a kind that are written."""
        self._seconds = seconds
        self._written_at: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}

    def due(self, kind: Hashable, now: float) -> int | None:
        """Count an event. ``now`` is on a clock that never goes back, in seconds.

        Returns:
            How many events of this kind it stands for, itself included; None if it is not to be written.
        """
        left_out = self._left_out.get(kind, 0)
        last = self._written_at.get(kind)
        if last is not None and now - last < self._seconds:
            self._left_out[kind] = left_out + 1
            return None
        self._written_at[kind], self._left_out[kind] = now, 0
        return left_out + 1

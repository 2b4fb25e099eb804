"""How many connections each worker has, so that new ones go to the worker with the fewest."""

import mmap
from typing import Final

_PROCESSES: Final = 1023
"""More than can be at a time: 256 workers, their successors, and workers that still drain."""

_BYTES: Final = 4


class ConnectionCounts:
    """Counts in anonymous memory. The master makes it and chooses a place for each process; a worker sets its count.

    A count needs no lock, because one process writes it. Zero in memory is a place that is not in use.
    """

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, (1 + _PROCESSES) * _BYTES)).cast("i")
        """First the number of places ever used, then for each place 1 + the number of connections."""
        self._places: dict[int, int] = {}
        self._own: int | None = None

    def prepare(self) -> None:
        """In the master, before it starts a worker: choose the place that the worker inherits.

        If all are in use, the worker accepts what comes.
        """
        used = {*self._places.values()}
        self._own = next((place for place in range(1, 1 + _PROCESSES) if place not in used), None)
        if self._own is not None:
            self._counts[0] = max(self._counts[0], self._own)

    def started(self, pid: int) -> None:
        """In the master: the worker with the prepared place was started."""
        if self._own is not None:
            self._places[pid] = self._own

    def ended(self, pid: int) -> None:
        """In the master: a worker has ended."""
        if place := self._places.pop(pid, 0):
            self._counts[place] = 0

    def set(self, connections: int | None) -> None:
        """Publish the number of connections of this worker; None if it accepts none."""
        if self._own is not None:
            self._counts[self._own] = 0 if connections is None else connections + 1

    def another_has_fewer(self) -> bool:
        """Whether a worker that accepts connections has fewer than this one."""
        if self._own is None:
            return False
        own = self._counts[self._own]
        return any(0 < count < own for count in self._counts[1 : 1 + self._counts[0]])

"""Memory of connections that have ended goes back to the system."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from xksproxy.server.memory_lock import MemoryLock

_LEAST: Final = 100
"""Fewer ended connections are not worth the work."""


def return_freed_memory(lock: MemoryLock) -> None:
    """Give freed memory back to the system; only the GNU C library keeps it. Call it on a thread."""
    with suppress(AttributeError), lock.lifted():
        ctypes.CDLL(None).malloc_trim(0)


class FreedMemory:
    """Notices that many connections have ended. The C library keeps what they have freed unless it is told."""

    def __init__(self, connections: Callable[[], int], give_back: Callable[[], None]) -> None:
        """``connections`` counts those that are open; ``give_back`` is called on the thread of :meth:`follow`."""
        self._connections = connections
        self._give_back = give_back
        self._most = 0

    def follow(self) -> None:
        """Give memory back once half of the connections have ended; call it once a second, on a thread."""
        now = self._connections()
        self._most = max(self._most, now)
        if self._most - now >= _LEAST and 2 * now <= self._most:
            self._most = now
            self._give_back()

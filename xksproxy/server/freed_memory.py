"""Memory of connections that have ended goes back to the system."""

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from xksproxy.server.memory_lock import MemoryLock

_LEAST: Final = 100
"""Fewer ended connections are not worth the work."""

_LOCKED_SECONDS: Final = 60.0
"""The pause between two returns of locked memory. Each lifts the lock, and other threads may wait for 10 ms."""


class MemoryReturn:
    """Gives freed memory back to the system; only the GNU C library keeps it. Any thread may call it."""

    def __init__(self, lock: MemoryLock) -> None:
        self._memory = lock
        self._turn = threading.Lock()
        self._next = 0.0

    def __call__(self) -> bool:
        """Give it back, but locked memory once a minute at most. Returns whether it was given back."""
        with self._turn:
            if self._memory.locked and time.monotonic() < self._next:
                return False
            with suppress(AttributeError), self._memory.lifted():
                ctypes.CDLL(None).malloc_trim(0)
            self._next = time.monotonic() + _LOCKED_SECONDS
        return True


class FreedMemory:
    """Notices that many connections have ended. The C library keeps what they have freed unless it is told."""

    def __init__(self, connections: Callable[[], int], give_back: Callable[[], bool]) -> None:
        """``connections`` counts those that are open; ``give_back`` returns whether it did; :meth:`follow` calls it."""
        self._connections = connections
        self._give_back = give_back
        self._most = 0

    def follow(self) -> None:
        """Give memory back once half of the connections have ended; call it once a second, on a thread."""
        now = self._connections()
        self._most = max(self._most, now)
        if self._most - now >= _LEAST and 2 * now <= self._most and self._give_back():
            self._most = now

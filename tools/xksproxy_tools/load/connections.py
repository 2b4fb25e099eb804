"""A fixed number of connections to one proxy. Lost connections are replaced."""

import asyncio
import ssl
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from xksproxy.client.target import Target
from xksproxy_tools.load.http_connection import Connection, ConnectionOwner

_CONNECT_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
_AT_ONCE: Final = 16


class Connections:
    """The idle connections, and the tasks that replace lost ones."""

    def __init__(self, target: Target, count: int, owner: ConnectionOwner, on_idle: Callable[[], None]) -> None:
        """``on_idle`` is called when a replaced connection is ready.

        Raises:
            TargetError: a PEM file cannot be used.
        """
        self._target = target
        self._count = count
        self._owner = owner
        self._on_idle = on_idle
        self._context = target.context()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = asyncio.Semaphore(_AT_ONCE)
        self._begun: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.idle: deque[Connection] = deque()
        self.made = 0
        self.errors: Counter[str] = Counter()
        """The reasons why connections were lost or failed."""

    async def open(self) -> None:
        """Open all connections.

        Raises:
            OSError: a connection failed; ssl.SSLError is one of these.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._make())

    def replace(self, reason: str) -> None:
        """Replace a lost connection in the background. It is retried until it succeeds."""
        self.errors[reason] += 1
        task = asyncio.create_task(self._keep_trying())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop replacing connections, and close every one: idle, in use, or still being made."""
        for task in self._tasks:
            task.cancel()
        for connection in self._begun:
            connection.close()
        self.idle.clear()

    async def _keep_trying(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._make()
            except OSError as error:
                self.errors[connect_failure(error)] += 1
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._on_idle()
                return

    async def _make(self) -> None:
        target = self._target
        async with self._handshakes, asyncio.timeout(_CONNECT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                self._begin,
                target.host,
                target.port,
                ssl=self._context,
                server_hostname=target.host,
            )
        self.made += 1
        if connection.is_open:  # a connection that was lost already is being replaced
            self.idle.append(connection)

    def _begin(self) -> Connection:
        connection = Connection(self._owner)
        self._begun.add(connection)
        return connection


def connect_failure(error: OSError) -> str:
    """The reason why a connection failed, as a short text for counting."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or 'handshake failed'}"
    if isinstance(error, TimeoutError):
        return f"not connected within {_CONNECT_SECONDS:g} s"
    return f"not connected: {error.strerror or error}"

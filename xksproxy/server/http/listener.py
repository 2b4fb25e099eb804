"""Accepting connections from a socket that several worker processes share, and leaving it without losing any."""

import asyncio
import logging
import socket
from typing import Final

from xksproxy.server.http.connection import Connection, HttpService
from xksproxy.server.http.table import Stage

_log: Final = logging.getLogger(__name__)
_BACKLOG: Final = 2048
_SWEEP_SECONDS: Final = 0.25
_POLL_SECONDS: Final = 0.02
_FAREWELL_SECONDS: Final = 1.0


class Listener:
    """The public listener of one worker."""

    def __init__(self, listening: socket.socket, service: HttpService) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._service = service
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._listening.dup(), backlog=_BACKLOG)
        self._sweeper = loop.create_task(self._sweep())

    async def stop_accepting(self) -> None:
        """Take in what has connected so far, and close the socket in this process.

        A client that has connected has sent the first bytes of its handshake by then. The socket lives on in the master
        and in the workers that stay, if there are any.
        """
        if self._server is None:
            return
        self._server.close()
        loop = asyncio.get_running_loop()
        accepted = []
        while True:
            try:
                accepted.append(self._listening.accept()[0])
            except OSError:
                break
        self._listening.close()
        self._server = None
        for connection in accepted:
            await loop.connect_accepted_socket(self._connection, connection)

    async def drain(self, seconds: float) -> None:
        """Wait until all connections have gone, each after its next answer; after ``seconds`` close what is idle."""
        loop, table = asyncio.get_running_loop(), self._service.table
        end = loop.time() + seconds
        # Connections change in too many places for an event.
        while len(table) > table.count(Stage.CLOSING) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        for member in table:
            if member.stage in (Stage.STRANGER, Stage.CLIENT):
                member.close()
        end += _FAREWELL_SECONDS
        while len(table) > table.count(Stage.SILENT, Stage.HANDSHAKE) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        for member in table:
            member.drop()

    def _connection(self) -> Connection:
        return Connection(self._service)

    async def _sweep(self) -> None:
        loop, table = asyncio.get_running_loop(), self._service.table
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                table.expire(loop.time())
            except Exception:  # noqa: BLE001 - the loop must go on, whatever it is
                _log.exception("connections whose time is over could not be closed")

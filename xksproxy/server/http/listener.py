"""Accepts connections from a socket that several workers share, and stops without losing a connection."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from xksproxy.server.http.connection import Connection
from xksproxy.server.http.connection_counts import ConnectionCounts
from xksproxy.server.http.connection_table import Stage
from xksproxy.server.http.service import HttpService
from xksproxy.server.http.syn_filter import drop_new_connections

_log: Final = logging.getLogger(__name__)
_ACCEPTED_A_ROUND: Final = 64
_OTHERS_FIRST_SECONDS: Final = 0.002
"""The time in which a worker with fewer connections can accept one. If it does not, it is busy or stuck."""

_ACCEPTED_INSTEAD: Final = 16
"""Connections that are accepted at once after that time. A flood must not fill the backlog."""

_PAUSE_SECONDS: Final = 0.1
_SEND_BUFFER_BYTES: Final = 32 * 1024
_SWEEP_SECONDS: Final = 0.25
_POLL_SECONDS: Final = 0.02
_CLOSE_SECONDS: Final = 1.0
_ESTABLISHED_SECONDS: Final = 0.2


class Listener:
    """The public listener of one worker."""

    def __init__(self, listening: socket.socket, service: HttpService, counts: ConnectionCounts) -> None:
        listening.setblocking(False)
        # Accepted connections inherit it. By default the kernel buffers megabytes for a client that does not read.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._listening = listening
        self._service = service
        self._counts = counts
        self._accepting = False
        self.held = False
        """Whether no connections are accepted at present; see :meth:`hold`."""
        self._connecting: set[asyncio.Task[object]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to accept connections."""
        self._accepting = True
        self._service.table.when_fewer = self._publish
        self._resume()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    def hold(self, *, held: bool) -> None:
        """Leave new connections to the other processes that share the socket, or accept them again."""
        self.held = held
        if held and self._accepting:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._publish()
        elif not held:
            self._resume()

    async def stop_accepting(self, *, in_all_processes: bool) -> None:
        """Accept the connections in the backlog, and close the socket in this process.

        If only this process stops, the socket stays open in the others. If all do, no new connection can begin from now
        on, and those that have begun get 0.2 s to be established.
        """
        if not self._accepting:
            return
        if in_all_processes:
            drop_new_connections(self._listening)
            await asyncio.sleep(_ESTABLISHED_SECONDS)
        self._accepting = False
        self._publish()
        asyncio.get_running_loop().remove_reader(self._listening.fileno())
        while self._accept_one():
            pass
        self._listening.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _accept_in_turn(self) -> None:
        """Accept connections while no other worker has fewer. Then leave them to the others for 2 ms.

        Otherwise one worker may get most connections, and is full while the others are idle.
        """
        for _ in range(_ACCEPTED_A_ROUND):
            if self._counts.another_has_fewer():
                self._pause(_OTHERS_FIRST_SECONDS, self._accept_instead)
                return
            if not self._accept_one():
                return

    def _accept_instead(self) -> None:
        if self._accepting and not self.held:
            self._resume()
            for _ in range(_ACCEPTED_INSTEAD):
                if not self._accept_one():
                    return

    def _accept_one(self) -> bool:
        """Accept a connection of the backlog. Returns whether there may be more.

        uvloop's own server accepts one in each iteration of the event loop, so a flood would fill the backlog.
        """
        loop = asyncio.get_running_loop()
        try:
            accepted, _ = self._listening.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            self._note_failure(error)
            return False
        task = loop.create_task(loop.connect_accepted_socket(self._connection, accepted))
        self._connecting.add(task)
        task.add_done_callback(self._connected)
        self._publish()
        return True

    def _publish(self) -> None:
        accepts = self._accepting and not self.held
        self._counts.set(len(self._service.table) + len(self._connecting) if accepts else None)

    def _connected(self, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        self._publish()
        if not task.cancelled() and (error := task.exception()) is not None:
            reason = str(error) or type(error).__name__
            if self._service.log.has_line("no TLS connection", reason=reason, peer="unknown"):
                _log.info("no TLS connection", extra={"fields": {"reason": reason}})

    def _note_failure(self, error: OSError) -> None:
        """Log the failure and pause for 0.1 s. The usual reason is too many open files."""
        _log.error("cannot accept connections", extra={"fields": {"reason": error.strerror}})
        self._pause(_PAUSE_SECONDS, self._resume)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        loop.call_later(seconds, then)

    def _resume(self) -> None:
        if self._accepting and not self.held:
            asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept_in_turn)
            self._publish()

    async def drain(self, seconds: float) -> None:
        """Wait until all connections are closed, each after its next answer. After ``seconds``, close idle ones."""
        loop, table = asyncio.get_running_loop(), self._service.table
        end = loop.time() + seconds
        # Polling, because connections change in too many places for an event.
        while len(table) > table.count(Stage.CLOSING) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        for member in table:
            if member.stage in (Stage.STRANGER, Stage.CLIENT):
                member.close()
        end += _CLOSE_SECONDS
        while len(table) > table.count(Stage.SILENT, Stage.HANDSHAKE) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        for member in table:
            member.drop()

    def _connection(self) -> Connection:
        return Connection(self._service)

    async def _sweep(self) -> None:
        loop, table = asyncio.get_running_loop(), self._service.table
        while True:
            due = loop.time() + _SWEEP_SECONDS
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                # Clients get more time if this process did not run in time.
                table.expire(loop.time(), late=max(0.0, loop.time() - due))
            except Exception:  # noqa: BLE001 - the loop must continue
                _log.exception("connections whose time is over could not be closed")

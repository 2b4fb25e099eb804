"""Accepting connections, their number bounded from the first packet on, TLS handshakes included."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from xksproxy.server.peer import Peer, PeerReader, PeerRefused
from xksproxy.server.protocol import Connection, HttpServer

_log: Final = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 2.0
"""Limit for the PROXY protocol header and the TLS handshake together; KMS waits 250 ms in all (R-TIME-1)."""

_MINIMUM_SECONDS: Final = 0.001

_PAUSE_SECONDS: Final = 0.1


class Acceptor:
    """Takes connections from one listening socket that several worker processes share."""

    def __init__(
        self,
        listener: socket.socket,
        context: Callable[[], ssl.SSLContext | None],
        server: HttpServer,
        maximum_connections: int,
        peer_reader: PeerReader | None,
    ) -> None:
        """``context`` gives the TLS context of the next connection, or None for plain HTTP.

        ``peer_reader`` determines the peer of a connection. If it is None, the peer is the address of the socket.
        """
        listener.setblocking(False)
        self._listener = listener
        self._context = context
        self._server = server
        self._maximum = maximum_connections
        self._peer_reader = peer_reader
        self._handshakes: dict[asyncio.Task[None], Connection | None] = {}
        """In the order of their coming, with what is made of each."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._task = asyncio.create_task(self._accept_all())

    async def stop(self) -> None:
        """Accept no more; handshakes under way are given up."""
        tasks = [*self._handshakes, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listener)
                self._admit(accepted, address)
            except OSError as error:
                _log.error("cannot accept connections", extra={"fields": {"reason": error.strerror}})
                await asyncio.sleep(_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - the loop must go on, whatever it is
                _log.exception("a connection could not be taken in")
                await asyncio.sleep(_PAUSE_SECONDS)

    def _admit(self, accepted: socket.socket, address: tuple[str, ...]) -> None:
        if not self._make_room():
            accepted.close()
            return
        task = asyncio.create_task(self._shake_hands(accepted, address))
        self._handshakes[task] = None
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    def _make_room(self) -> bool:
        """Below the maximum, or made so: by a stranger's idle connection, the oldest handshake, or another idle one.

        So who only connects can displace others who only connect, and not KMS.
        """
        if len(self._server.connections) + len(self._handshakes) < self._maximum:
            return True
        # A handshake that is just done has a connection already, and must be neither counted twice nor given up.
        pending = [task for task, made in self._handshakes.items() if made is None or made.transport is None]
        if len(self._server.connections) + len(pending) < self._maximum:
            return True
        idle = self._server.idle_connections
        if pending and not (idle and not idle[0].authenticated):
            self._handshakes.pop(pending[0])
            pending[0].cancel()
            return True
        if idle:
            idle[0].drop()
            return True
        return False

    async def _shake_hands(self, accepted: socket.socket, address: tuple[str, ...]) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        peer = Peer.of(address)

        def connection() -> Connection:
            made = self._server()
            made.peer = peer
            if task in self._handshakes:
                self._handshakes[task] = made
            return made

        context = self._context()
        end = loop.time() + HANDSHAKE_SECONDS
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._peer_reader is not None:
                async with asyncio.timeout_at(end):
                    peer = await self._peer_reader.read(accepted, address)
            seconds = None if context is None else max(end - loop.time(), _MINIMUM_SECONDS)
            await loop.connect_accepted_socket(
                connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=None if context is None else HANDSHAKE_SECONDS,
            )
        except PeerRefused:
            accepted.close()
        except (OSError, EOFError) as error:
            # ssl.SSLError and TimeoutError are OSErrors.
            _log.info("no TLS connection", extra={"fields": {"reason": str(error) or type(error).__name__}})
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

"""The objects that the connections of a listener share."""

import asyncio
import math
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final, Protocol

from xksproxy.server.http.connection_table import ConnectionTable
from xksproxy.server.http.errors import BadRequest
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.http.pacer import Pacer
from xksproxy.server.http.stranger_log import StrangerLog
from xksproxy.server.peer import PeerReader

_READ_BYTES: Final = 32 * 1024
_HANDSHAKES_A_ROUND: Final = 4
_STRANGERS_A_ROUND: Final = 16


class ConnectionRefused(Exception):
    """The client may not connect, after a complete TLS handshake. The text says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """The client of a connection, by its certificate."""

    name: str | None = None
    """The common name; None without a certificate."""

    expires: float = math.inf
    """When the certificate expires, in seconds since 1970."""


class TlsTerms(Protocol):
    """The TLS context, and the check of clients. A connection keeps the context with which it began."""

    @property
    def context(self) -> ssl.SSLContext:
        """Certificate, TLS versions and cipher suites."""

    @property
    def clients(self) -> object:
        """The rules for clients. A connection that was made under other rules ends with its next request."""

    def admit(self, connection: Any) -> Client:
        """Check the client before a byte of a request is read (R-TLS-8).

        Raises:
            ConnectionRefused: the client may not connect.
        """


@dataclass(slots=True)
class HttpService:
    """The objects that the connections of a listener share."""

    handler: Callable[[Request], Awaitable[Response]]
    refuse: Callable[[BadRequest], Response]
    """Makes the answer to bytes that are not a request."""

    terms: Callable[[], TlsTerms]
    """Returns the terms of a new connection."""

    peers: PeerReader
    """Determines the peer of each connection, from its socket or from a PROXY protocol header."""

    table: ConnectionTable
    log: StrangerLog = field(default_factory=StrangerLog)
    """For connections that cannot be served."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    draining: bool = False
    """Once set, every answer closes its connection."""

    closes_after_answer: bool = False
    """The same, while this process has no HSM session and other processes have one."""

    buffer: bytearray = field(default_factory=lambda: bytearray(_READ_BYTES))
    """The buffer into which all connections read, one after another."""

    handshakes: Pacer = field(init=False)
    """Limits the first steps of handshakes, each of which takes as long as several requests."""

    strangers: Pacer = field(init=False)
    """Limits the requests of strangers, except the first on each connection, because KMS signs the first one."""

    _date: tuple[int, bytes] = (0, b"")

    def __post_init__(self) -> None:
        self.handshakes = Pacer(self.loop, _HANDSHAKES_A_ROUND)
        self.strangers = Pacer(self.loop, _STRANGERS_A_ROUND)

    def date(self) -> bytes:
        """The Date header line for the present second."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode())
        return self._date[1]

"""What the connections of a listener share, and what it asks of its owner."""

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
    """The client's side of the TLS handshake is not acceptable; the text says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end, by the certificate it showed."""

    name: str | None = None
    """The common name; None without a certificate."""

    expires: float = math.inf
    """When the certificate expires, in seconds since 1970."""


class TlsTerms(Protocol):
    """With what a handshake is made, and who may come. Those of one connection stay the same."""

    @property
    def context(self) -> ssl.SSLContext:
        """Certificate, versions and suites."""

    def admit(self, connection: Any) -> Client:
        """Look at who comes before a byte of a request is read (R-TLS-8).

        Raises:
            ConnectionRefused: not this one.
        """


@dataclass(slots=True)
class HttpService:
    """What the connections of a listener share."""

    handler: Callable[[Request], Awaitable[Response]]
    refuse: Callable[[BadRequest], Response]
    """Makes the answer to what is no request."""

    terms: Callable[[], TlsTerms]
    """Those of the next connection."""

    peers: PeerReader
    """Determines the peer of each connection, from its socket or from a PROXY protocol header."""

    table: ConnectionTable
    log: StrangerLog = field(default_factory=StrangerLog)
    """For connections that cannot be served."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    draining: bool = False
    """Once set, every answer closes its connection."""

    closes_after_answer: bool = False
    """The same, while this process has no HSM session and others have."""

    buffer: bytearray = field(default_factory=lambda: bytearray(_READ_BYTES))
    """Into which each connection reads in turn."""

    handshakes: Pacer = field(init=False)
    """Turns for the first step of a handshake, which costs as much as several requests."""

    strangers: Pacer = field(init=False)
    """Turns for the requests of strangers, but for the first of each: that of KMS is signed."""

    _date: tuple[int, bytes] = (0, b"")

    def __post_init__(self) -> None:
        self.handshakes = Pacer(self.loop, _HANDSHAKES_A_ROUND)
        self.strangers = Pacer(self.loop, _STRANGERS_A_ROUND)

    def date(self) -> bytes:
        """The Date header line of now."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode())
        return self._date[1]

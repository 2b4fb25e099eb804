"""What a connection begins with, read before TLS: who is at its other end, by the PROXY protocol where it is on."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Final, Self

from xksproxy.config.model import ProxyProtocol
from xksproxy.config.networks import Networks
from xksproxy.server.proxy_protocol import (
    SIGNATURE,
    MalformedHeader,
    MissingHeader,
    ProxyHeader,
    parse_header,
)
from xksproxy.telemetry.seldom import Seldom

_log: Final = logging.getLogger(__name__)
_LOG_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection."""

    address: str
    """An IP address; an IPv4 address in IPv6 is given as IPv4."""

    vpc_endpoint_id: str | None = None
    """The VPC endpoint through which the client came to the load balancer, if that says so."""

    @classmethod
    def of(cls, address: tuple[str, ...]) -> Self:
        """The peer of a socket, by what ``accept`` returned."""
        host = address[0].partition("%")[0]
        try:
            found = ip_address(host)
        except ValueError:
            return cls(host)
        return cls(str((isinstance(found, IPv6Address) and found.ipv4_mapped) or found))


class Cause(StrEnum):
    """Why a connection is closed for the PROXY protocol; the label of a metric."""

    UNLISTED = "unlisted"
    MISSING = "missing"
    MALFORMED = "malformed"
    UNEXPECTED = "unexpected"


_ADVICE: Final = {
    Cause.UNLISTED: "add its network to [server] proxy_protocol.from if it is the load balancer",
    Cause.MISSING: "switch proxy_protocol_v2.enabled on in the load balancer's target group, or remove [server]"
    " proxy_protocol",
    Cause.MALFORMED: "the load balancer must send the PROXY protocol, version 2, for TCP",
    Cause.UNEXPECTED: "set [server] proxy_protocol to the load balancer's networks, or switch proxy_protocol_v2.enabled"
    " off in its target group",
}


class RefusedOpening(Exception):
    """The connection must be closed unanswered."""

    def __init__(self, cause: Cause, reason: str) -> None:
        self.cause = cause
        self.reason = reason
        super().__init__(reason)


class Opening:
    """Reads the openings of the connections to one listener. Belongs to one event loop."""

    def __init__(self, settings: ProxyProtocol | None, count: Callable[[str], None], *, required: bool = True) -> None:
        """``settings`` are None where the protocol is off; ``count`` is told the cause of each refusal.

        Without ``required`` a connection may come from anywhere and do without a header. That is for a listener that
        does not tell clients apart, and is asked by the load balancer and by the machine itself.
        """
        self._networks = None if settings is None else Networks.of(settings.from_)
        self._count = count
        self._required = required
        self._seldom = Seldom(_LOG_SECONDS)

    async def read(self, connection: socket.socket, address: tuple[str, ...]) -> Peer:
        """Who is at the other end, once the connection has said something. Its other bytes stay unread.

        The caller bounds the time. ``address`` is what ``accept`` returned.

        Raises:
            RefusedOpening: the connection must be closed; it is counted, and logged once a minute for each cause.
            EOFError: the client closed the connection before it said enough.
            OSError: the connection is broken.
        """
        peer = Peer.of(address)
        try:
            if self._networks is None:
                return await _without_header(connection, peer)
            if peer.address not in self._networks:
                return self._not_listed(peer)
            if not self._required and not await _begins_like_a_header(connection):
                return peer
            return _peer_of(await _read_header(connection), peer)
        except RefusedOpening as refused:
            self._tell(refused, peer)
            raise

    def _not_listed(self, peer: Peer) -> Peer:
        if self._required:
            raise RefusedOpening(
                Cause.UNLISTED, "the connection does not come from a network of [server] proxy_protocol"
            )
        return peer

    def _tell(self, refused: RefusedOpening, peer: Peer) -> None:
        self._count(refused.cause)
        if (connections := self._seldom.due(refused.cause, time.monotonic())) is not None:
            fields = {
                "reason": refused.reason,
                "peer": peer.address,
                "connections": connections,
                "what_to_do": _ADVICE[refused.cause],
            }
            _log.warning("connection refused by PROXY protocol", extra={"fields": fields})


async def _without_header(connection: socket.socket, peer: Peer) -> Peer:
    """The protocol is off: a header must not come, and nothing but a look at the first bytes tells."""
    if (await _peek(connection, len(SIGNATURE))) == SIGNATURE:
        raise RefusedOpening(
            Cause.UNEXPECTED, "the connection begins with a PROXY protocol header, and [server] proxy_protocol is off"
        )
    return peer


async def _begins_like_a_header(connection: socket.socket) -> bool:
    """Whether the first byte is that of the signature, with which no HTTP request begins."""
    return (await _peek(connection, 1)) == SIGNATURE[:1]


def _peer_of(header: ProxyHeader, load_balancer: Peer) -> Peer:
    if header.local:
        return load_balancer
    if header.client is None:
        raise RefusedOpening(Cause.MALFORMED, "PROXY protocol header: it names no IP address of a client")
    return Peer(header.client, header.vpc_endpoint_id)


async def _read_header(connection: socket.socket) -> ProxyHeader:
    """Never reads beyond the header."""
    loop = asyncio.get_running_loop()
    data = b""
    while True:
        try:
            found = parse_header(data)
        except MissingHeader as error:
            raise RefusedOpening(Cause.MISSING, f"PROXY protocol header missing: {error}") from None
        except MalformedHeader as error:
            raise RefusedOpening(Cause.MALFORMED, f"PROXY protocol header: {error}") from None
        if isinstance(found, ProxyHeader):
            return found
        chunk = await loop.sock_recv(connection, found.total - len(data))
        if not chunk:
            raise _end_of(data)
        data += chunk


def _end_of(data: bytes) -> Exception:
    if data:
        return RefusedOpening(Cause.MALFORMED, "PROXY protocol header: the connection ends within it")
    return EOFError("the connection was closed before its PROXY protocol header")


async def _peek(connection: socket.socket, count: int) -> bytes:
    """The first bytes that are there, left unread; empty where the client has closed the connection."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connection.recv(count, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(loop, connection)


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())

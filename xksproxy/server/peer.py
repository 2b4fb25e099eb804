"""The peer of a connection: the address of its socket, or the client that a PROXY protocol header names before TLS."""

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
from xksproxy.telemetry.log_limiter import LogLimiter

_log: Final = logging.getLogger(__name__)
_LOG_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """The client of a connection."""

    address: str
    """An IP address. An IPv4-mapped IPv6 address is given as IPv4."""

    vpc_endpoint_id: str | None = None
    """The VPC endpoint through which the client reached the load balancer, if the header names it."""

    @classmethod
    def of(cls, address: tuple[str, ...]) -> Self:
        """The peer of a socket. ``address`` is what ``accept`` returned."""
        host = address[0].partition("%")[0]
        try:
            found = ip_address(host)
        except ValueError:
            return cls(host)
        return cls(str((isinstance(found, IPv6Address) and found.ipv4_mapped) or found))


class Cause(StrEnum):
    """The cause why a connection is closed; the label of a metric."""

    UNLISTED = "unlisted"
    MISSING = "missing"
    MALFORMED = "malformed"
    UNEXPECTED = "unexpected"


_ADVICE: Final = {
    Cause.UNLISTED: "add its network to [server] proxy_protocol.from if it is the load balancer",
    Cause.MISSING: "enable proxy_protocol_v2.enabled in the load balancer's target group, or remove [server]"
    " proxy_protocol",
    Cause.MALFORMED: "the load balancer must send the PROXY protocol, version 2, for TCP",
    Cause.UNEXPECTED: "set [server] proxy_protocol to the load balancer's networks, or disable"
    " proxy_protocol_v2.enabled in its target group",
}


class PeerRefused(Exception):
    """The connection must be closed without an answer."""

    def __init__(self, cause: Cause, reason: str) -> None:
        self.cause = cause
        self.reason = reason
        super().__init__(reason)


class PeerReader:
    """Determines the peers of the connections to one listener. Belongs to one event loop."""

    def __init__(self, settings: ProxyProtocol | None, count: Callable[[str], None], *, required: bool = True) -> None:
        """``settings`` is None if the protocol is off. ``count`` is called with the cause of each refusal.

        If ``required`` is False, connections may come from any address, and without a header. This is for the health
        listener: it does not need the client, and probes come from the load balancer and from the machine itself.
        """
        self._networks = None if settings is None else Networks.of(settings.from_)
        self._count = count
        self._required = required
        self._log_limiter = LogLimiter(_LOG_SECONDS)

    async def read(self, connection: socket.socket, address: tuple[str, ...]) -> Peer:
        """Wait for the first bytes of a connection and determine its peer. Bytes after a header stay unread.

        The caller limits the time. ``address`` is what ``accept`` returned.

        Raises:
            PeerRefused: the connection must be closed; it is counted, and logged once a minute for each cause.
            EOFError: the client closed the connection before it sent a byte.
            OSError: the connection failed.
        """
        peer = Peer.of(address)
        try:
            if self._networks is None:
                return await _without_header(connection, peer)
            if peer.address not in self._networks:
                return self._unlisted(peer)
            if not self._required and not await _begins_like_a_header(connection):
                return peer
            return _peer_of(await _read_header(connection), peer)
        except PeerRefused as refused:
            self._report(refused, peer)
            raise

    def _unlisted(self, peer: Peer) -> Peer:
        if self._required:
            raise PeerRefused(Cause.UNLISTED, "the connection does not come from a network of [server] proxy_protocol")
        return peer

    def _report(self, refused: PeerRefused, peer: Peer) -> None:
        self._count(refused.cause)
        if (connections := self._log_limiter.due(refused.cause, time.monotonic())) is not None:
            fields = {
                "reason": refused.reason,
                "peer": peer.address,
                "connections": connections,
                "what_to_do": _ADVICE[refused.cause],
            }
            _log.warning("connection refused by PROXY protocol", extra={"fields": fields})


async def _without_header(connection: socket.socket, peer: Peer) -> Peer:
    """Check that there is no header, because the protocol is off. The bytes stay unread."""
    if (await _peek(connection, len(SIGNATURE))) == SIGNATURE:
        raise PeerRefused(
            Cause.UNEXPECTED, "the connection begins with a PROXY protocol header, but [server] proxy_protocol is off"
        )
    return peer


async def _begins_like_a_header(connection: socket.socket) -> bool:
    """Whether the first byte is the first of the signature. No HTTP request begins with it."""
    return (await _peek(connection, 1)) == SIGNATURE[:1]


def _peer_of(header: ProxyHeader, load_balancer: Peer) -> Peer:
    if header.local:
        return load_balancer
    if header.client is None:
        raise PeerRefused(Cause.MALFORMED, "PROXY protocol header: it does not have the IP address of a client")
    return Peer(header.client, header.vpc_endpoint_id)


async def _read_header(connection: socket.socket) -> ProxyHeader:
    """Read the header, and no byte after it."""
    loop = asyncio.get_running_loop()
    data = b""
    while True:
        try:
            found = parse_header(data)
        except MissingHeader as error:
            raise PeerRefused(Cause.MISSING, f"PROXY protocol header missing: {error}") from None
        except MalformedHeader as error:
            raise PeerRefused(Cause.MALFORMED, f"PROXY protocol header: {error}") from None
        if isinstance(found, ProxyHeader):
            return found
        chunk = await loop.sock_recv(connection, found.total - len(data))
        if not chunk:
            raise _end_of_header_error(data)
        data += chunk


def _end_of_header_error(data: bytes) -> Exception:
    if data:
        return PeerRefused(Cause.MALFORMED, "PROXY protocol header: the connection ended before the end of the header")
    return EOFError("the connection was closed before its PROXY protocol header")


async def _peek(connection: socket.socket, count: int) -> bytes:
    """Wait for the first bytes without consuming them. The result is empty if the client closed the connection."""
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

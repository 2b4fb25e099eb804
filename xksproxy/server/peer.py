"""The peer of a connection: the address of its socket, or the client that a PROXY protocol header names before TLS."""

import logging
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
    """The reason why a connection is closed. It is the label of a metric."""

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
    """Determines the peers of the connections to one listener. It does no input or output."""

    def __init__(self, settings: ProxyProtocol | None, count: Callable[[str], None], *, required: bool = True) -> None:
        """``settings`` is None if the protocol is off. ``count`` is called with the cause of each refusal.

        If ``required`` is False, connections may come from any address, and without a header. This is for the health
        listener: it does not need the client, and probes come from the load balancer and from the machine itself.
        """
        self._networks = None if settings is None else Networks.of(settings.from_)
        self._count = count
        self._required = required
        self._log_limiter = LogLimiter(_LOG_SECONDS)

    def determine(self, data: bytes, peer: Peer) -> tuple[Peer, int] | None:
        """Determine the peer from the first bytes of a connection, received from ``peer``.

        Returns the peer and the length of the header, which is 0 without one; None if more bytes are needed.

        Raises:
            PeerRefused: the connection must be closed; it is counted, and logged once a minute for each cause.
        """
        try:
            return self._determine(data, peer)
        except PeerRefused as refused:
            self._report(refused, peer)
            raise

    def end_of_input(self, data: bytes, peer: Peer) -> None:
        """Report a connection that ended before its peer was known. ``data`` is what was received."""
        if data and self._networks is not None:
            self._report(PeerRefused(Cause.MALFORMED, "PROXY protocol header: the connection ended inside it"), peer)

    def _determine(self, data: bytes, peer: Peer) -> tuple[Peer, int] | None:
        if not data:
            return None
        if self._networks is None:
            return _without_header(data, peer)
        if peer.address not in self._networks:
            return self._unlisted(peer), 0
        if not self._required and data[:1] != SIGNATURE[:1]:  # no HTTP request begins with it
            return peer, 0
        try:
            header = parse_header(data)
        except MissingHeader as error:
            raise PeerRefused(Cause.MISSING, f"PROXY protocol header missing: {error}") from None
        except MalformedHeader as error:
            raise PeerRefused(Cause.MALFORMED, f"PROXY protocol header: {error}") from None
        return (_peer_of(header, peer), header.length) if isinstance(header, ProxyHeader) else None

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


def _without_header(data: bytes, peer: Peer) -> tuple[Peer, int] | None:
    """Check that there is no header, because the protocol is off."""
    if data.startswith(SIGNATURE):
        raise PeerRefused(
            Cause.UNEXPECTED, "the connection begins with a PROXY protocol header, but [server] proxy_protocol is off"
        )
    return None if SIGNATURE.startswith(data) else (peer, 0)


def _peer_of(header: ProxyHeader, load_balancer: Peer) -> Peer:
    if header.local:
        return load_balancer
    if header.client is None:
        raise PeerRefused(Cause.MALFORMED, "PROXY protocol header: it does not have the IP address of a client")
    return Peer(header.client, header.vpc_endpoint_id)

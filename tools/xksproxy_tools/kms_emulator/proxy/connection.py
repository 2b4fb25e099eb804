"""Connects to a proxy in three steps: name resolution, TCP, TLS."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from xksproxy.client.target import tls_context
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

TLS_1_2_SUITES: Final = ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384")
"""The cipher suites of TLS 1.2 that KMS offers (R-TLS-2), by OpenSSL's names."""

TLS_1_3_SUITES: Final = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""The cipher suites of TLS 1.3. Python's ssl always offers TLS_AES_128_GCM_SHA256 too, so a proxy with this suite only
is accepted here; :mod:`xksproxy_tools.kms_emulator.diagnose` checks the suite that was chosen."""

Peer = tuple[str, int]
"""Host and port."""

Protocol = TypeVar("Protocol", bound=asyncio.Protocol)


class Stage(IntEnum):
    """The stages of an attempt, in order."""

    NAME = 1
    TCP = 2
    TLS = 3
    EXCHANGE = 4


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An address family and an address for connect(2)."""

    family: socket.AddressFamily
    address: tuple[Any, ...]

    def __str__(self) -> str:
        return f"[{self.address[0]}]:{self.address[1]}" if ":" in self.address[0] else "{}:{}".format(*self.address)


def parse_connect_rule(text: str) -> tuple[Peer, Peer]:
    """Parse ``HOST:443=ADDRESS:PORT``, another address for a host and port. An IPv6 address is in brackets.

    Raises:
        ValueError: the form is wrong.
    """
    source, separator, destination = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not a rule; expected HOST:443=ADDRESS:PORT")
    host, port = _peer(source)
    return (host.lower(), port), _peer(destination)


def kms_tls_context(ca: Path | None, client_certificate: Path | None, client_key: Path | None) -> ssl.SSLContext:
    """The TLS settings of KMS: 1.2 and 1.3, the suites of R-TLS-2; the server's name and chain are verified.

    Raises:
        TargetError: a PEM file cannot be used.
    """
    context = tls_context(ca, client_certificate, client_key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(TLS_1_2_SUITES))
    context.set_alpn_protocols(["http/1.1"])
    return context


async def resolve(host: str, port: int, rules: Mapping[Peer, Peer]) -> list[SocketAddress]:
    """Resolve a host and port by a rule or by the name service.

    Raises:
        ProxyFailure: NO_TCP; the name has no address.
    """
    name, port = rules.get((host.lower(), port), (host, port))
    if (literal := _literal(name)) is not None:
        return [SocketAddress(literal, (name, port))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ProxyFailure(Outcome.NO_TCP, f"{name} has no address: {_reason(error)}") from error
    return [SocketAddress(family, address) for family, _, _, _, address in found]


async def connect_tcp(addresses: list[SocketAddress]) -> socket.socket:
    """A connection to the first address that accepts one.

    Raises:
        ProxyFailure: NO_TCP; no address accepts one.
    """
    failures = []
    for address in addresses:
        connection = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(connection, address.address)
        except OSError as error:
            connection.close()
            failures.append(f"{address} does not accept a connection: {_reason(error)}")
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise ProxyFailure(Outcome.NO_TCP, "; ".join(failures))


async def start_tls(
    connection: socket.socket, context: ssl.SSLContext, host: str, make_protocol: Callable[[], Protocol]
) -> tuple[asyncio.Transport, Protocol]:
    """Make the TLS handshake, and verify the certificate for the host. The connection is closed if this fails.

    Raises:
        ProxyFailure: NO_TLS; its cause is the exception of the ssl module or the operating system.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_connection(
            make_protocol, sock=connection, ssl=context, server_hostname=host.rstrip(".")
        )
    except ssl.SSLCertVerificationError as error:
        raise ProxyFailure(Outcome.NO_TLS, f"the certificate is refused: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ProxyFailure(Outcome.NO_TLS, f"the TLS handshake failed: {error.reason or error}") from error
    except OSError as error:
        raise ProxyFailure(Outcome.NO_TLS, f"the connection ended in the TLS handshake: {_reason(error)}") from error
    except ValueError as error:
        connection.close()
        raise ProxyFailure(Outcome.NO_TLS, f"{host!r} is not valid as the name of a certificate: {error}") from error


def _peer(text: str) -> Peer:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) <= 0xFFFF:  # noqa: PLR2004
        raise ValueError(f"{text!r} is not a host and port; expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _literal(name: str) -> socket.AddressFamily | None:
    """The address family of a literal IP address, or None."""
    try:
        version = ipaddress.ip_address(name).version
    except ValueError:
        return None
    return socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""Checks of the addresses to listen on: each by itself, against each other, and by a trial."""

import errno
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from xksproxy.config.findings import Finding
from xksproxy.spec.pasted import host_in

_MAXIMUM_PORT: Final = 65535
_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:\s/]+):(?P<port>[0-9]{1,5})")
_RESOLVE_SECONDS: Final = 3.0

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Listener:
    """The path of a configuration key, and its ``address:port``."""

    at: str
    address: str


def listener_problems(listeners: Sequence[Listener]) -> Iterator[str]:
    """Addresses that are none, names that do not resolve, and two listeners at one address."""
    parsed: list[tuple[Listener, frozenset[IpAddress], int]] = []
    for listener in listeners:
        match = _ADDRESS.fullmatch(listener.address)
        if match is None or not 0 < int(match["port"]) <= _MAXIMUM_PORT:
            meant = host_in(listener.address)
            hint = f'; write "{meant}"' if meant != listener.address and _ADDRESS.fullmatch(meant) else ""
            expected = "address:port, such as 0.0.0.0:443 or [::]:443, with a port from 1 to 65535"
            if listener.address == "off":
                hint = "; leave it out for no such listener" if listener.at == "health.listen" else ""
            yield f"{listener.at}: expected {expected}, got {listener.address}{hint}"
        elif match["host"] == "*":
            port = match["port"]
            yield f"{listener.at}: * is not an address; write 0.0.0.0:{port}, or [::]:{port} for IPv6 and IPv4"
        elif not (addresses := _resolve(match["host"].strip("[]"))):
            yield f"{listener.at}: the name {match['host']} does not resolve to an address of this machine"
        elif kind := next(filter(None, map(_unreachable, addresses)), ""):
            yield f"{listener.at}: {match['host']} is {kind}; expected an address of this machine, or 0.0.0.0 or [::]"
        else:
            parsed.append((listener, addresses, int(match["port"])))
    for (first, here, port), (second, there, other_port) in combinations(parsed, 2):
        if port == other_port and _overlap(here, there):
            yield (
                f"{second.at}: {second.address} is also an address of {first.at}, {first.address}; expected another"
                " port or address"
            )


def trial_findings(listeners: Sequence[Listener], *, starting: bool, running: bool = False) -> Iterator[Finding]:
    """Why this process cannot listen on an address. The trial binds a socket and closes it.

    A command runs beside the service, with other rights. Unless the service is ``starting``, a missing right and an
    address in use are warnings. While the service is ``running``, it is what uses the address.
    """
    for listener in listeners:
        host, _, port = listener.address.rpartition(":")
        host = host.strip("[]")
        try:
            _bind(host, int(port))
        except OSError as error:
            at = f"{listener.at}: cannot listen on {listener.address}"
            if error.errno == errno.EADDRNOTAVAIL:
                yield Finding.problem(f"{at}: no network interface of this machine has this address")
            elif error.errno == errno.EADDRINUSE:
                if not running:
                    yield Finding(starting, f"{at}: another process listens there; find it with: ss -ltnp")
            elif error.errno in (errno.EACCES, errno.EPERM):
                text = f"{at}: user {os.geteuid()} has no right to this port"
                way_out = "the service needs CAP_NET_BIND_SERVICE, as its systemd unit has it, or a port above 1023"
                yield Finding(starting, f"{text}; {way_out}")
            else:
                yield Finding(starting, f"{at}: {error.strerror}")


def _address(text: str) -> IpAddress:
    """An address; one of IPv4 that is written as IPv6 is the same one (ValueError if it is none)."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _resolve(host: str) -> frozenset[IpAddress]:
    """The addresses of a name; empty if it has none, or no answer comes within three seconds."""
    found: list[IpAddress] = []

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            found.extend(_address(str(answer[4][0]).partition("%")[0]) for answer in answers)
        except (OSError, ValueError, UnicodeError):
            return

    try:
        return frozenset({_address(host)})
    except ValueError:
        # A name server that does not answer must not hold up the caller.
        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(_RESOLVE_SECONDS)
        return frozenset(found)


def _unreachable(address: IpAddress) -> str:
    """What an address is to which no client connects, or which cannot be written here; empty if it is none of these."""
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, ipaddress.IPv4Address):
        return "a reserved address" if address.is_reserved else ""
    return "a link-local address, whose zone cannot be written here" if address.is_link_local else ""


def _overlap(here: frozenset[IpAddress], there: frozenset[IpAddress]) -> bool:
    return any(_covers(one, other) or _covers(other, one) for one in here for other in there)


def _covers(one: IpAddress, other: IpAddress) -> bool:
    """Whether a socket at one address takes the connections to the other. ``[::]`` takes those of IPv4 too."""
    if one == other:
        return True
    return one.is_unspecified and one.version in {other.version, 6}


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # As the service does. Without listen(), the trial does not disturb a service that starts meanwhile.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((host, port))

"""Networks in CIDR notation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from xksproxy.config.findings import Finding


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks of either IP version."""

    networks: tuple[IPv4Network | IPv6Network, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Networks by their text.

        Raises:
            ValueError: one is not in CIDR notation.
        """
        return cls(tuple(map(ip_network, texts)))

    def __contains__(self, address: str) -> bool:
        """Whether an IP address lies in one of them; an IPv4 address in IPv6 counts as IPv4."""
        found = ip_address(address)
        if isinstance(found, IPv6Address):
            found = found.ipv4_mapped or found
        return any(found in network for network in self.networks)


def network_problems(at: str, texts: Iterable[str]) -> Iterator[str]:
    """What is wrong with networks of the configuration; ``at`` is the path of their key."""
    for index, text in enumerate(texts):
        if _network(text) is None:
            yield f"{at}[{index}]: expected a network such as 10.0.0.0/8 or fd00::/8, got {text}{_hint(text)}"


def network_findings(at: str, texts: Iterable[str]) -> Iterator[Finding]:
    """Networks that hold every address. What is no network is passed over."""
    for index, text in enumerate(texts):
        network = _network(text)
        if network is not None and network.prefixlen == 0:
            yield Finding.warning(
                f"{at}[{index}]: {text} holds every address, so any client can say that it is another; name the"
                " networks of the load balancer alone"
            )


def _hint(text: str) -> str:
    """The network that an address with a prefix length is in."""
    network = _network(text, strict=False)
    return "" if network is None else f"; the network of that address is {network}"


def _network(text: str, *, strict: bool = True) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict)
    except ValueError:
        return None

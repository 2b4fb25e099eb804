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
        """Parse networks.

        Raises:
            ValueError: a text is not in CIDR notation.
        """
        return cls(tuple(map(ip_network, texts)))

    def __contains__(self, address: str) -> bool:
        """Whether an IP address is in one of the networks. An IPv4-mapped IPv6 address counts as IPv4."""
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address):
            parsed = parsed.ipv4_mapped or parsed
        return any(parsed in network for network in self.networks)


def network_problems(at: str, texts: Iterable[str]) -> Iterator[str]:
    """Problems of networks in the configuration. ``at`` is the path of their key."""
    for index, text in enumerate(texts):
        if _network(text) is None:
            yield f"{at}[{index}]: expected a network such as 10.0.0.0/8 or fd00::/8, got {text}{_hint(text)}"


def network_findings(at: str, texts: Iterable[str]) -> Iterator[Finding]:
    """Warnings about networks that contain every address. Texts that are not networks are ignored."""
    for index, text in enumerate(texts):
        network = _network(text)
        if network is not None and network.prefixlen == 0:
            yield Finding.warning(
                f"{at}[{index}]: {text} contains every address, so any client can claim to be another; list only"
                " the networks of the load balancer"
            )


def _hint(text: str) -> str:
    """Name the network of an address that was given with its prefix length."""
    network = _network(text, strict=False)
    return "" if network is None else f"; the network of that address is {network}"


def _network(text: str, *, strict: bool = True) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict)
    except ValueError:
        return None

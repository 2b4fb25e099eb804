"""The VPC endpoint services that exist. The emulator has no VPC; a service is only a name."""

from dataclasses import dataclass

from xksproxy_tools.kms_emulator.names import Region


@dataclass(frozen=True, slots=True)
class VpcServices:
    """The names of the VPC endpoint services in a Region."""

    region: Region
    names: frozenset[str] = frozenset()
    """The services that exist. If empty, every well-formed name of the Region exists."""

    def exists(self, name: str) -> bool:
        """Whether a service exists."""
        return f".vpce.{self.region.name}." in name and (not self.names or name in self.names)

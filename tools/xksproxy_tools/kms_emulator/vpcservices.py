"""The VPC endpoint services that KMS finds. There is no VPC here: a service is a name that exists or does not."""

from dataclasses import dataclass

from xksproxy_tools.kms_emulator.names import Region


@dataclass(frozen=True, slots=True)
class VpcServices:
    """Which names exist in a Region."""

    region: Region
    names: frozenset[str] = frozenset()
    """The only ones that exist; none given: every well-formed name of the Region does."""

    def exists(self, name: str) -> bool:
        """Whether KMS finds a service."""
        return f".vpce.{self.region.name}." in name and (not self.names or name in self.names)

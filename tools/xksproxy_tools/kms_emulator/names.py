"""Key ids, aliases and their ARNs: the four ways to name a KMS key."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from xksproxy_tools.kms_emulator.errors import KmsError

ALIAS_PREFIX: Final = "alias/"
_KEY_ID: Final = re.compile(r"(?:mrk-)?[0-9a-f-]{32,36}")
_ARN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<kind>key|alias)/(?P<name>.+)"
)
_PARTITIONS: Final = {"cn": "aws-cn", "us-gov": "aws-us-gov"}


@dataclass(frozen=True, slots=True)
class KeyName:
    """A parsed KeyId parameter."""

    kind: Literal["key", "alias"]
    account: str
    name: str
    """A key id, or an alias with its prefix ``alias/``."""


@dataclass(frozen=True, slots=True)
class Region:
    """The name of an AWS Region, and the ARNs of its resources."""

    name: str

    @property
    def partition(self) -> str:
        """The first part of its ARNs."""
        return next((partition for start, partition in _PARTITIONS.items() if self.name.startswith(f"{start}-")), "aws")

    def key_arn(self, account: str, key_id: str) -> str:
        """The key ARN."""
        return f"arn:{self.partition}:kms:{self.name}:{account}:key/{key_id}"

    def alias_arn(self, account: str, alias_name: str) -> str:
        """The alias ARN; the name has its prefix."""
        return f"arn:{self.partition}:kms:{self.name}:{account}:{alias_name}"

    def parse_key_id(self, text: str, account: str, *, alias: bool = True) -> KeyName:
        """Parse a key id, key ARN, alias name or alias ARN. A name that is not an ARN belongs to ``account``.

        Raises:
            KmsError: NotFoundException, for another form, an ARN of another Region, or an alias that is not allowed.
        """
        name = self._parse_arn(text) if text.startswith("arn:") else _parse_name(text, account)
        if name is None or (name.kind == "alias" and not alias):
            raise KmsError("NotFoundException", f"Invalid keyId '{text}'")
        return name

    def _parse_arn(self, text: str) -> KeyName | None:
        match = _ARN.fullmatch(text)
        if match is None:
            return None
        if match["region"] != self.name or match["partition"] != self.partition:
            raise KmsError("NotFoundException", f"Invalid arn {match['region']}")
        if match["kind"] == "alias":
            return KeyName("alias", match["account"], f"{ALIAS_PREFIX}{match['name']}")
        return KeyName("key", match["account"], match["name"])


def _parse_name(text: str, account: str) -> KeyName | None:
    if text.startswith(ALIAS_PREFIX):
        return KeyName("alias", account, text)
    return KeyName("key", account, text) if _KEY_ID.fullmatch(text) else None

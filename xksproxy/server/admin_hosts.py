"""Which Host header fields the admin listener answers: a defence against DNS rebinding.

A web page can have its own name resolve to the address of the admin listener, and then read it with the visitor's
browser as if it were a part of the page. The browser names the page's host in the Host field: such names are refused.
"""

import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final, Self

from xksproxy.config.model import Admin

_HOST: Final = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*))(?::[0-9]*)?")
_LOCALHOST: Final = "localhost"

REFUSAL: Final = (
    "The admin listener answers only requests whose Host is an IP address, localhost, the name of its machine, or a"
    " name in hosts of the [admin] table of its configuration. Use one of these, or add the name there.\n"
)
"""What a client is told, as text. It does not repeat the name."""


class AdminHosts:
    """Decides by the Host header fields of a request."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names`` are host names without a port, answered besides IP addresses and localhost."""
        self._names = frozenset(filter(None, map(_normal, (_LOCALHOST, *names))))

    @classmethod
    def of(cls, settings: Admin) -> Self:
        """``hosts``, the machine's name with and without its domain, and the name in ``listen``."""
        machine = socket.gethostname()
        listen, _, _ = settings.listen.rpartition(":")
        return cls((*settings.hosts, machine, machine.partition(".")[0], listen))

    def answers(self, values: Sequence[str]) -> bool:
        """Whether a request with these values of Host is answered; it needs exactly one. Its port is not compared."""
        if len(values) != 1:
            return False
        match = _HOST.fullmatch(values[0].strip(" \t"))
        if match is None:
            return False
        if match["bracketed"] is not None:
            return _is_address(match["bracketed"], 6)
        name = _normal(match["plain"])
        return name in self._names or _is_address(name, 4)


def _normal(name: str) -> str:
    """Host names are the same in upper and lower case, and with the dot of the root zone."""
    return name.lower().removesuffix(".")


def _is_address(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version
    except ValueError:
        return False

"""The Host header fields that the admin listener accepts: protection against DNS rebinding.

A web page can make its own host name resolve to the address of the admin listener. The visitor's browser then treats
the listener as a part of the page and lets the page read it. But the browser sends the page's host name in the Host
field, so the listener refuses such names.
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
    " name in hosts of the [admin] table of its configuration. Use one of these, or add the name to hosts.\n"
)
"""The text of the refusal. It does not repeat the name."""


class AdminHosts:
    """The accepted values of the Host header field."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names`` are host names without a port that are accepted besides IP addresses and localhost."""
        self._names = frozenset(filter(None, map(_normalize, (_LOCALHOST, *names))))

    @classmethod
    def of(cls, settings: Admin) -> Self:
        """Accept ``hosts``, the machine's name with and without its domain, and the name in ``listen``."""
        machine = socket.gethostname()
        listen, _, _ = settings.listen.rpartition(":")
        return cls((*settings.hosts, machine, machine.partition(".")[0], listen))

    def accepts(self, values: Sequence[str]) -> bool:
        """Whether a request with these values of Host is accepted. It must have exactly one. The port is ignored."""
        if len(values) != 1:
            return False
        match = _HOST.fullmatch(values[0].strip(" \t"))
        if match is None:
            return False
        if match["bracketed"] is not None:
            return _is_address(match["bracketed"], 6)
        name = _normalize(match["plain"])
        return name in self._names or _is_address(name, 4)


def _normalize(name: str) -> str:
    """Host names do not depend on case, and a dot at the end (the root zone) changes nothing."""
    return name.lower().removesuffix(".")


def _is_address(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version
    except ValueError:
        return False

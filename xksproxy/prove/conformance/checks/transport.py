"""TLS, HTTP/1.1 and client certificates (R-TLS-*)."""

from typing import Final

from xksproxy.prove.conformance.check import Check

CHECKS: Final[tuple[Check, ...]] = ()

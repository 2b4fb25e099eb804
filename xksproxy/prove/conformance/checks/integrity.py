"""Additional authenticated data and the integrity value (R-CDIV-*)."""

from typing import Final

from xksproxy.prove.conformance.check import Check

CHECKS: Final[tuple[Check, ...]] = ()

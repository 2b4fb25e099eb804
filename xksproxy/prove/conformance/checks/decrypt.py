"""Decrypt (R-DEC-*)."""

from typing import Final

from xksproxy.prove.conformance.check import Check

CHECKS: Final[tuple[Check, ...]] = ()

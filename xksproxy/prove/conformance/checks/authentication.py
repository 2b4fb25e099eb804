"""Signatures, their age and their credentials (R-AUTH-*)."""

from typing import Final

from xksproxy.prove.conformance.check import Check

CHECKS: Final[tuple[Check, ...]] = ()

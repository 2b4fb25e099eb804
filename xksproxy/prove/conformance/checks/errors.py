"""Errors and authorization (R-ERR-*, R-AUTHZ-*)."""

from typing import Final

from xksproxy.prove.conformance.check import Check

CHECKS: Final[tuple[Check, ...]] = ()

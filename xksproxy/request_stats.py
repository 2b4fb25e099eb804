"""What a request has cost and touched so far: filled in by each layer, for the audit log and the metrics."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec


class RequestStats(msgspec.Struct):
    """MachineInfo of one request. Hedged and repeated HSM calls add up."""

    queue_seconds: float = 0.0
    """Spent waiting for an HSM session."""

    hsm_seconds: float = 0.0
    """Spent in HSM sessions."""

    hsms: list[str] = []
    """The HSMs that were asked, in the order in which they were done."""

    key_version: int | None = None
    authorization: Mapping[str, Any] | None = None
    """Decision, mode, and the policies that decided; None where no policies were asked."""


current_request_stats: ContextVar[RequestStats | None] = ContextVar("current_request_stats", default=None)
"""The account of the request that this task works for, inherited by its sub-tasks. None: nobody keeps one."""

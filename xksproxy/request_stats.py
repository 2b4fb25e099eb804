"""Statistics of one request. Each layer adds what it measures; the audit log and the metrics use them."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec


class HsmCall(NamedTuple):
    """One call to an HSM. Times are on the monotonic clock, in seconds."""

    hsm: str
    queued_at: float
    began_at: float
    """When a session took it from the queue."""

    ended_at: float


class EndedRequest(NamedTuple):
    """A request that may be traced."""

    name: str
    began_at: float
    """On the monotonic clock."""

    seconds: float
    attributes: Mapping[str, str | int | None]
    """Texts are cut at 128 characters; None is left out."""

    calls: Sequence[HsmCall]
    error: str | None
    """None if it succeeded."""


class RequestStats(msgspec.Struct):
    """Statistics of one request. Times of hedged and repeated HSM calls are added."""

    queue_seconds: float = 0.0
    """Time in the queue for an HSM session."""

    hsm_seconds: float = 0.0
    """Time in HSM sessions."""

    hsms: list[str] = []
    """The HSMs that were called, in the order in which their calls ended."""

    key_version: int | None = None
    authorization: Mapping[str, Any] | None = None
    """Decision, mode, and the policies that decided; None if no policies were evaluated."""

    calls: list[HsmCall] | None = None
    """The calls of :attr:`hsms`, if they are collected."""


current_request_stats: ContextVar[RequestStats | None] = ContextVar("current_request_stats", default=None)
"""Statistics of the current request. Tasks that a task starts inherit them. None if they are not collected."""

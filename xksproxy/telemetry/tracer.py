"""The interface of tracing. OpenTelemetry is an optional package, which only :mod:`.tracing` imports."""

from typing import Protocol

from xksproxy.config.model import Tracing
from xksproxy.request_stats import EndedRequest


class Tracer(Protocol):
    """Traces the requests of one worker. Belongs to its event loop."""

    def trace(self, request: EndedRequest) -> str | None:
        """Trace a request if it was slow, failed, or is sampled. Return the trace id in hexadecimal, or None."""

    def close(self) -> None:
        """Send the remaining spans, for at most 2 s."""


def build_tracer(settings: Tracing) -> Tracer | None:
    """The tracer of a worker; None if tracing is off."""
    if settings.endpoint is None:
        return None
    from xksproxy.telemetry.tracing import RequestTracer  # noqa: PLC0415 - its packages are optional

    return RequestTracer(settings)

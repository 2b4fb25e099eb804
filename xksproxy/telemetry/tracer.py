"""What traces requests, if anything does. OpenTelemetry is an optional package, which only :mod:`.tracing` imports."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from xksproxy.config.model import Tracing
from xksproxy.request_stats import HsmCall


class Tracer(Protocol):
    """Traces the requests of one worker. Belongs to its event loop."""

    def trace(
        self,
        name: str,
        began_at: float,
        seconds: float,
        attributes: Mapping[str, str | int | None],
        calls: Sequence[HsmCall],
        *,
        error: str | None,
    ) -> str | None:
        """Trace a request if it was slow, failed, or is drawn. Return the trace id in hexadecimal, or None.

        ``began_at`` is on the monotonic clock. Texts of ``attributes`` are cut at 128 characters; None is left out.
        """

    def close(self) -> None:
        """Send what is left, for at most 2 s."""


def build_tracer(settings: Tracing) -> Tracer | None:
    """The tracer of a worker; None if tracing is off."""
    if settings.endpoint is None:
        return None
    from xksproxy.telemetry.tracing import RequestTracer  # noqa: PLC0415 - its packages are optional

    return RequestTracer(settings)

"""OpenTelemetry traces of requests. Import it only if ``[tracing] endpoint`` is set: its packages are optional.

Spans are made after the answer, from data that is measured for every request. So only traced requests need more time,
and their result decides whether they are traced.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from xksproxy import __version__
from xksproxy.config.model import Tracing
from xksproxy.request_stats import EndedRequest
from xksproxy.telemetry.lines import escape
from xksproxy.telemetry.log_limiter import LogLimiter

_log: Final = logging.getLogger(__name__)
_MOST_TRACES_PER_SECOND: Final = 50
_MOST_CHARACTERS: Final = 128
_EXPORT_SECONDS: Final = 5
_CLOSE_SECONDS: Final = 2.0
_LOG_SECONDS: Final = 60.0


class RequestTracer:
    """Traces the requests of one worker. Belongs to its event loop."""

    def __init__(self, settings: Tracing, exporter: SpanExporter | None = None) -> None:
        """``exporter`` is used instead of one that sends to ``settings.endpoint``."""
        # The SDK logs each failure with a traceback.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._slow_seconds = settings.slow_ms / 1000
        self._ratio = settings.ratio
        sending = exporter or OTLPSpanExporter(endpoint=settings.endpoint, timeout=_EXPORT_SECONDS)
        resource = Resource.create({"service.name": "xksproxy", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_FailureLogger(sending)))
        self._tracer = self._provider.get_tracer("xksproxy", __version__)
        self._second = -math.inf
        self._traces = 0

    def trace(self, request: EndedRequest) -> str | None:
        """See :meth:`~xksproxy.telemetry.tracer.Tracer.trace`."""
        name, began_at, seconds, attributes, calls, error = request
        wanted = error is not None or seconds > self._slow_seconds or random.random() < self._ratio  # noqa: S311
        if not wanted or not self._has_room(began_at + seconds):
            return None
        to_epoch = time.time_ns() - int(time.monotonic() * 1e9)

        def at(monotonic: float) -> int:
            return to_epoch + int(monotonic * 1e9)

        present = {key: _bounded(value) for key, value in attributes.items() if value is not None}
        root = self._tracer.start_span(name, kind=SpanKind.SERVER, start_time=at(began_at), attributes=present)
        context = set_span_in_context(root)
        for call in calls:
            on = {"xksproxy.hsm": _bounded(call.hsm)}
            queue = self._tracer.start_span("queue", context, attributes=on, start_time=at(call.queued_at))
            queue.end(at(call.began_at))
            inside = self._tracer.start_span(
                "HSM call", context, SpanKind.CLIENT, attributes=on, start_time=at(call.began_at)
            )
            inside.end(at(call.ended_at))
        if error is not None:
            root.set_status(Status(StatusCode.ERROR, error))
        root.end(at(began_at + seconds))
        return f"{root.get_span_context().trace_id:032x}"

    def _has_room(self, now: float) -> bool:
        if math.floor(now) != self._second:
            self._second, self._traces = math.floor(now), 0
        self._traces += 1
        return self._traces <= _MOST_TRACES_PER_SECOND

    def close(self) -> None:
        """Send the remaining spans, for at most 2 s."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)


class _FailureLogger(SpanExporter):
    """Logs at most once a minute that traces cannot be sent. These traces are dropped."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._limiter = LogLimiter(_LOG_SECONDS)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS and self._limiter.due("failed", time.monotonic()):
                _log.warning("traces cannot be sent", extra={"fields": {"dropped_spans": len(spans)}})
        return result

    def shutdown(self) -> None:
        """Stop sending."""
        self._exporter.shutdown()


def _bounded(value: str | int) -> str | int:
    return escape(value[:_MOST_CHARACTERS]) if isinstance(value, str) else value

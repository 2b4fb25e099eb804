"""Slow and failed requests are traced: sent to a collector, named in the audit line, and exemplars of the metrics."""

import gzip
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from server_support import OwnProxy, Wire, audit_lines, chained, request, roaming_caller
from support import Proxy, eventually, lines_with, metrics_text

pytestmark = pytest.mark.slow

PLAINTEXT = b"plaintext of no concern to a trace"


@dataclass
class Collector:
    """Takes traces by OTLP over HTTP."""

    url: str
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[Any]:
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Collector(f"http://127.0.0.1:{server.server_port}/v1/traces", bodies)
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


def open_metrics(proxy: Proxy) -> str:
    """What Prometheus gets, which accepts OpenMetrics."""
    return metrics_text(proxy, accept="application/openmetrics-text;version=1.0.0")


def test_a_traced_request_is_found_by_its_trace_id_everywhere(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], tmp_path: Path, collector: Collector
) -> None:
    log = tmp_path / "audit.log"
    tracing = f'\n[tracing]\nendpoint = "{collector.url}"\nslow_ms = 0\n'
    proxy = own_proxy.start(edit=lambda text: chained(text, log) + tracing)
    request_metadata |= {"kmsRequestId": "94de0ef9-8faa-4e34-ac69-0704d99268a4"}
    with roaming_caller(proxy, request_metadata) as caller:
        assert caller.encrypt("demo-key", PLAINTEXT).status == 200
        assert caller.encrypt("no-such-key", PLAINTEXT).status == 404
    with Wire(proxy) as wire:  # of a stranger
        assert wire.ask(request("POST", "/dev/kms/xks/v1/health", {"Host": "h", "Content-Length": "0"})).status == 401

    def roots() -> list[Any]:
        return [span for span in collector.spans() if not span.parent_span_id]

    eventually(lambda: len(roots()), 2)
    eventually(lambda: len(collector.spans()), 4)
    good = next(span for span in roots() if attributes(span)["xksproxy.key_id"] == "demo-key")
    assert good.name == "Encrypt"
    assert attributes(good) | {"http.response.status_code": 200} == attributes(good)
    assert attributes(good)["kmsRequestId"] == "94de0ef9-8faa-4e34-ac69-0704d99268a4"
    children = [span for span in collector.spans() if span.parent_span_id]
    assert [(span.name, span.trace_id, span.parent_span_id) for span in children] == [
        ("queue", good.trace_id, good.span_id),
        ("HSM call", good.trace_id, good.span_id),
    ]
    failed = next(span for span in roots() if span is not good and span.trace_id != good.trace_id)
    assert (failed.status.message, attributes(failed)["error.type"]) == ("KeyNotFoundException",) * 2

    ids = {span.trace_id.hex() for span in roots()}
    lines = audit_lines(log, '"message":"request"')
    assert {line["trace_id"] for line in lines if "trace_id" in line} == ids
    assert [line["status"] for line in lines if "trace_id" not in line] == [401]

    def exemplars() -> set[str]:
        return {
            sample.exemplar.labels["trace_id"]
            for family in text_string_to_metric_families(open_metrics(proxy))
            for sample in family.samples
            if sample.exemplar and sample.name == "xksproxy_request_duration_seconds_bucket"
        }

    eventually(lambda: exemplars() & ids)
    assert "trace_id" not in metrics_text(proxy)
    everything = b"".join(collector.bodies)
    for secret in (PLAINTEXT, proxy.credential.secret_access_key.encode()):
        assert secret not in everything


def test_a_collector_that_is_down_costs_a_line_and_no_request(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], tmp_path: Path
) -> None:
    tracing = '\n[tracing]\nendpoint = "http://127.0.0.1:9/v1/traces"\nslow_ms = 0\n'
    proxy = own_proxy.start(server="workers = 1", edit=lambda text: text + tracing)
    with roaming_caller(proxy, request_metadata) as caller:
        for _ in range(20):
            assert caller.encrypt("demo-key", PLAINTEXT).status == 200

    eventually(lambda: lines_with(proxy.log, "traces cannot be sent"))
    assert not re.search("Traceback|opentelemetry", proxy.log.read_text())

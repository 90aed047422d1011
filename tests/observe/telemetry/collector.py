"""The receiving end of a collector in a process of its own: OTLP over HTTP, read with OpenTelemetry's classes.

`python -m tests.observe.telemetry.collector` prints its port. It takes POST /v1/traces and /v1/metrics as any collector
does; GET /received returns what it has received, as JSON.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service

__all__ = ["Collector"]

Dict = dict[str, Any]


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: dict[str, list[Dict]] = {"spans": [], "metrics": [], "headers": []}


class _Handler(BaseHTTPRequestHandler):
    server: Collector
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(json.dumps(self.server.received).encode(), "application/json")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        if self.headers["Content-Type"] != "application/x-protobuf":
            self.send_error(415)
            return
        self.server.received["headers"].append(dict(self.headers))
        if self.path == "/v1/traces":
            spans = trace_service.ExportTraceServiceRequest.FromString(raw)
            self.server.received["spans"] += _spans(spans)
            answer = trace_service.ExportTraceServiceResponse()
        elif self.path == "/v1/metrics":
            metrics = metrics_service.ExportMetricsServiceRequest.FromString(raw)
            self.server.received["metrics"] += _metrics(metrics)
            answer = metrics_service.ExportMetricsServiceResponse()
        else:
            self.send_error(404)
            return
        self._answer(answer.SerializeToString(), "application/x-protobuf")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _spans(request: Any) -> Iterable[Dict]:
    for group in request.resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                yield {
                    "name": span.name,
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "start_ns": span.start_time_unix_nano,
                    "end_ns": span.end_time_unix_nano,
                    "kind": span.kind,
                    "status": span.status.code,
                    "attributes": _plain(span.attributes),
                    "resource": _plain(group.resource.attributes),
                }


def _metrics(request: Any) -> Iterable[Dict]:
    for group in request.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    value = (
                        {"count": point.count, "sum": point.sum, "buckets": list(point.bucket_counts)}
                        if kind == "histogram"
                        else point.as_double or point.as_int
                    )
                    yield {"name": metric.name, "kind": kind, "labels": _plain(point.attributes), "value": value}


def _plain(attributes: Iterable[Any]) -> Dict:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


if __name__ == "__main__":
    collector = Collector()
    print(collector.server_address[1], flush=True)
    collector.serve_forever()

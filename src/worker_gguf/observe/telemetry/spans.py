"""Creates spans from the times in a record, after the request is over, and sends them in batches over OTLP.

Attributes have the names of OpenTelemetry's conventions for HTTP and generative AI, or names under `worker_gguf` if the
conventions have none. They are ids and numbers, and never content of a request or an answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker_gguf.observe.account import Choice, Record
from worker_gguf.observe.telemetry.start_record import StartRecord

__all__ = ["Spans"]

Value = str | int | float | bool | list[str]

# The limit for requests with many answers: the trace of a hundred answers would have hundreds of similar spans.
_MOST_CHOICES = 8
_LONGEST_HEADER = 512


class Spans:
    """Sends spans. For one thread. The exporter and its batches are configured by the standard OTEL_* variables."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("worker_gguf")

    def add(self, item: Record | StartRecord) -> None:
        if isinstance(item, StartRecord):
            self._add_start(item)
        else:
            self._add_request(item)

    def close(self, timeout_s: float) -> None:
        self._provider.force_flush(int(timeout_s * 1000))
        self._provider.shutdown()

    # --- a request ------------------------------------------------------------------------------------------------

    def _add_request(self, record: Record) -> None:
        offset_s = record.ended_unix_s - record.ended_s
        operation = record.operation
        name = f"{operation} {record.model}" if operation and record.model else f"{record.method} {record.route}"
        span: Span = self._tracer.start_span(
            name,
            context=_parent(record),
            kind=SpanKind.SERVER if record.via == "http" else SpanKind.CONSUMER,
            attributes=_attributes(record),
            start_time=_ns(record.started_s + offset_s),
        )
        if _is_failure(record):
            span.set_status(Status(StatusCode.ERROR, record.code))
        within = set_span_in_context(span)
        for index, choice in enumerate(record.choices[:_MOST_CHOICES]):
            self._add_choice(within, index, choice, record, offset_s)
        span.end(_ns(record.ended_unix_s))

    def _add_choice(self, within: Context, index: int, choice: Choice, record: Record, offset_s: float) -> None:
        """Add the spans of one answer: queue wait, prefill and decode, without the phases that it did not reach."""
        ended_s = record.ended_s if choice.ended_s is None else choice.ended_s
        if index == 0:
            self._child(within, "prepare", record.started_s, choice.submitted_s, offset_s, {})
        steps: tuple[tuple[str, float | None, dict[str, Value]], ...] = (
            ("queue wait", choice.submitted_s, {}),
            (
                "prefill",
                choice.admitted_s,
                {
                    "worker_gguf.cached_tokens": choice.cached_tokens,
                    "worker_gguf.computed_tokens": choice.computed_tokens,
                },
            ),
            ("decode", choice.first_token_s, {"gen_ai.usage.output_tokens": choice.completion_tokens}),
        )
        ends = [start_s for _, start_s, _ in steps[1:]] + [None]
        for (name, start_s, attributes), end_s in zip(steps, ends, strict=True):
            if start_s is not None:
                attributes = attributes | {"worker_gguf.choice": index}
                self._child(within, name, start_s, ended_s if end_s is None else end_s, offset_s, attributes)

    def _child(
        self,
        within: Context,
        name: str,
        start_s: float,
        end_s: float,
        offset_s: float,
        attributes: Mapping[str, Value],
    ) -> None:
        span = self._tracer.start_span(name, within, attributes=attributes, start_time=_ns(start_s + offset_s))
        span.end(_ns(max(start_s, end_s) + offset_s))

    # --- the start ------------------------------------------------------------------------------------------------

    def _add_start(self, start: StartRecord) -> None:
        zero_s = start.ended_unix_s - start.seconds
        span = self._tracer.start_span(
            "cold start",
            attributes=_without_none({"error.type": start.code}),
            start_time=_ns(zero_s),
        )
        if start.code:
            span.set_status(Status(StatusCode.ERROR, start.code))
        within = set_span_in_context(span)
        for name, start_s, seconds, size_bytes in start.phases:
            self._child(
                within, name, start_s, start_s + seconds, zero_s, _without_none({"worker_gguf.bytes": size_bytes})
            )
        span.end(_ns(start.ended_unix_s))


def _attributes(record: Record) -> dict[str, Value]:
    values: dict[str, Value | None] = {
        "http.route": record.route,
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "error.type": record.code,
        "worker_gguf.via": record.via,
        "worker_gguf.request_id": record.request_id,
        "worker_gguf.job_id": record.request_id if record.via == "queue" else None,
        "worker_gguf.cancelled": record.is_cancelled,
        "worker_gguf.model_wait_s": record.model_wait_s,
    }
    if record.choices:
        values |= {
            "gen_ai.operation.name": record.operation,
            "gen_ai.provider.name": "worker_gguf",
            "gen_ai.request.model": record.model,
            "gen_ai.response.model": record.model,
            "gen_ai.response.id": record.answer_id,
            "gen_ai.request.choice.count": len(record.choices),
            "gen_ai.request.stream": record.stream,
            "gen_ai.response.finish_reasons": record.finish_reasons,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
        }
    return _without_none(values)


def _is_failure(record: Record) -> bool:
    """Return whether the span of a request has the status of an error.

    An error of the client (4xx) is not a failure of the server, except for a job: a failed job always is one.
    """
    if record.code is None or record.is_cancelled:
        return False
    return record.via == "queue" or not 400 <= record.status < 500


def _parent(record: Record) -> Context:
    """Return the context of the client's trace, or an empty context. The context of this thread is not used."""
    names = {"traceparent": record.traceparent, "tracestate": record.tracestate}
    carrier = {name: value for name, value in names.items() if value and len(value) <= _LONGEST_HEADER}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _without_none(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _ns(unix_s: float) -> int:
    return int(unix_s * 1e9)

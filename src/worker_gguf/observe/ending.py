"""Records the end of a request: one log line, the metrics, the trace. Used by the HTTP and queue interfaces.

The log line has ids, times and counts. It has no text from a client: no prompt, no answer, no unknown parameter name.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from worker_gguf.observe.account import Record
from worker_gguf.observe.metrics import Metrics

if TYPE_CHECKING:
    from worker_gguf.observe.telemetry import Telemetry

__all__ = ["line_of", "note_ending"]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def note_ending(
    record: Record, metrics: Metrics, telemetry: Telemetry | None, logger: logging.Logger, **also: object
) -> None:
    """Count, log and trace the request. `also` has more fields for the log line."""
    metrics.observe_request(record)
    if telemetry is not None:
        telemetry.trace(record)
    if record.ignored:  # log only known names, because a client chooses them
        also["ignored_parameters"] = sorted(set(map(metrics.ignored_label, record.ignored)))
    logger.info("request", extra={**line_of(record), **also})


def line_of(record: Record) -> dict[str, object]:
    """Return the fields of the log line, without those that have no value."""
    line: dict[str, object] = {
        "via": record.via,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "code": record.code,
        "cancelled": record.is_cancelled,
        "total_ms": _ms(record.seconds),
        "model_wait_ms": _ms(record.model_wait_s),
        "trace_id": _trace_id(record.traceparent),
    }
    if record.choices:
        line |= {
            "stream": record.stream,
            "n": len(record.choices),
            "finish_reasons": record.finish_reasons,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "reasoning_tokens": record.reasoning_tokens,
            "tool_calls": record.tool_calls,
            "queue_wait_ms": _ms(record.queue_wait_s),
            "ttft_ms": _ms(record.first_token_s),
            "prefill_tokens_per_s": _rounded(record.prefill_tokens_per_s),
            "decode_tokens_per_s": _rounded(record.decode_tokens_per_s),
        }
    return {name: value for name, value in line.items() if value is not None}


def _trace_id(traceparent: str | None) -> str | None:
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)

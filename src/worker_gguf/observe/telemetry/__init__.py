"""OpenTelemetry: traces of requests and of the start, and the metrics, sent to a collector. Off unless one is set.

The service passes on a frozen record, and a separate thread does everything else. OpenTelemetry is imported in that
thread after the model is ready, so it adds nothing to the cold start, and one `put` to a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker_gguf.latch import Latch
from worker_gguf.observe.telemetry.start_record import StartRecord

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from worker_gguf.observe.account import Record

__all__ = ["StartRecord", "Telemetry", "Wanted", "open_telemetry", "wanted"]

logger = logging.getLogger(__name__)

_MOST_WAITING = 4096
_PUSH_EVERY_MS = 60_000  # the SDK's own default
# close() may run before this thread's event loop has noticed the end of the start, so wait a moment.
_MOMENT_S = 0.2
_INSTALL = "pip install 'worker-gguf[otel]'"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The values of the standard OTEL_* variables. `resource` has the attributes that these variables do not set."""

    traces: bool
    metrics: bool
    push_every_s: float
    resource: Mapping[str, str]


class Telemetry:
    """Call `begin` once. `trace` can be called from any thread, and `close` only from the thread that called `begin`. A
    second `close` does nothing.
    """

    def __init__(self, wanted: Wanted, registry: CollectorRegistry | None) -> None:
        """`registry` has the metrics to send."""
        self._wanted = wanted
        self._registry = registry
        self._waiting: queue.Queue[Record | None] = queue.Queue(_MOST_WAITING)
        """None wakes the thread, which then sees that it is closed."""
        self._n_dropped = 0
        self._flush_s = 0.0
        self._begin: Callable[[], Awaitable[StartRecord]] | None = None
        self._closing = Latch()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def begin(self, start: Callable[[], Awaitable[StartRecord]]) -> None:
        """Start the thread, which waits for `start`. It returns when the worker's start has succeeded or failed."""
        self._begin = start
        self._thread.start()

    def trace(self, record: Record) -> None:
        """Send a record. Never waits and never raises: if too many records wait, this one is dropped and counted."""
        if self._wanted.traces:
            try:
                self._waiting.put_nowait(record)
            except queue.Full:
                self._n_dropped += 1

    def close(self, timeout_s: float) -> None:
        """Send the remaining records within this time. Does not wait for a start that is still running."""
        if self._closing.is_set:
            return
        self._flush_s = timeout_s
        self._closing.set()
        with contextlib.suppress(queue.Full):  # if it is full, the thread is busy and notices the end at its next read
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._n_dropped:
            logger.warning("traces were dropped: the collector was too slow", extra={"n": self._n_dropped})

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - a collector's trouble must never be the worker's
            # Only the type is logged: the text may contain the address of a collector, which may contain a key.
            logger.warning("telemetry stopped: nothing more is sent", extra={"error": type(error).__name__})

    async def _started(self) -> StartRecord | None:
        assert self._begin is not None
        start = asyncio.ensure_future(self._begin())
        closing = asyncio.ensure_future(self._closing.wait())
        await asyncio.wait({start, closing}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        if not start.done():
            await asyncio.wait({start}, timeout=min(_MOMENT_S, self._flush_s))
        if start.done():
            return start.result()
        start.cancel()
        return None

    def _work(self) -> None:
        start = asyncio.run(self._started())
        if start is None:
            return
        from worker_gguf.observe.telemetry.push import Push
        from worker_gguf.observe.telemetry.spans import Spans

        spans = Spans(self._wanted.resource) if self._wanted.traces else None
        push = Push(self._wanted.resource, self._registry) if self._wanted.metrics and self._registry else None
        if spans is not None:
            spans.add(start)
        push_at_s = time.monotonic() + self._wanted.push_every_s
        while not (self._closing.is_set and self._waiting.empty()):
            try:
                item = self._waiting.get(timeout=max(0.0, push_at_s - time.monotonic()))
            except queue.Empty:
                push_at_s = time.monotonic() + self._wanted.push_every_s
                if push is not None:
                    push.send()
                continue
            if spans is not None and item is not None:
                spans.add(item)
        if push is not None:
            push.send()
            push.close(self._flush_s)
        if spans is not None:
            spans.close(self._flush_s)


def wanted(variables: Mapping[str, str], *, version: str, worker_id: str | None = None) -> Wanted:
    """Read OpenTelemetry's own variables. `variables` has names in lower case, as `environment.given` returns them."""
    is_off = variables.get("otel_sdk_disabled", "").lower() == "true"

    def is_wanted(signal: str) -> bool:
        named = {"otel_exporter_otlp_endpoint", f"otel_exporter_otlp_{signal}_endpoint"} & variables.keys()
        return bool(named) and not is_off and variables.get(f"otel_{signal}_exporter", "otlp").lower() != "none"

    resource = {"service.version": version}
    if "otel_service_name" not in variables and "service.name=" not in variables.get("otel_resource_attributes", ""):
        resource["service.name"] = "worker-gguf"
    if worker_id:
        resource["service.instance.id"] = worker_id
    return Wanted(is_wanted("traces"), is_wanted("metrics"), _interval_s(variables), resource)


def open_telemetry(
    variables: Mapping[str, str], registry: CollectorRegistry | None, *, version: str, worker_id: str | None = None
) -> Telemetry | None:
    """Open what the environment asks for, or return None.

    If a part is not available, a warning is logged and the worker serves without it.
    """
    asked = wanted(variables, version=version, worker_id=worker_id)
    if not (asked.traces or asked.metrics):
        return None
    protocol = variables.get("otel_exporter_otlp_protocol", "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning(
            "no telemetry: this OTEL_EXPORTER_OTLP_PROTOCOL is not spoken here. Set http/protobuf, and the collector's "
            "port for it, mostly 4318",
            extra={"protocol": protocol},
        )
        return None
    if not _is_installed():
        logger.warning(
            "no telemetry: an OTLP endpoint is set, but OpenTelemetry is not installed", extra={"install": _INSTALL}
        )
        return None
    return Telemetry(asked, registry)


def _interval_s(variables: Mapping[str, str]) -> float:
    given = variables.get("otel_metric_export_interval", "")
    return (int(given) if given.isdecimal() and int(given) else _PUSH_EVERY_MS) / 1000


def _is_installed() -> bool:
    try:
        return all(map(importlib.util.find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:
        return False

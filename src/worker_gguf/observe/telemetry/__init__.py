"""Sends traces of the start and of requests, and the metrics, to an OpenTelemetry collector, if one is set.

A separate thread does all the work. It imports OpenTelemetry after the model is ready, so the cold start is not slower.
A request costs only one `put` of its frozen record into a queue.
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
from typing import TYPE_CHECKING

from msgspec import Struct

from worker_gguf.latch import Latch
from worker_gguf.observe.telemetry.start_record import StartRecord

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from worker_gguf.observe.account import Record

__all__ = ["StartRecord", "Telemetry", "Wanted", "open_telemetry", "wanted"]

logger = logging.getLogger(__name__)

_MOST_WAITING = 4096
_PUSH_EVERY_MS = 60_000  # the SDK's own default
# close() can be called before this thread's event loop has noticed the end of the start, so wait a moment.
_MOMENT_S = 0.2
_INSTALL = "pip install 'worker-gguf[otel]'"


class Wanted(Struct, frozen=True):
    """The values of the standard OTEL_* variables. `resource` has the attributes that the worker sets itself."""

    traces: bool
    metrics: bool
    push_every_s: float
    resource: Mapping[str, str]


class Telemetry:
    """Sends records to a collector, in its own thread.

    Call `begin` once. `trace` can be called from any thread. Call `close` in the thread that called `begin`; a second
    call does nothing.
    """

    def __init__(self, wanted: Wanted, registry: CollectorRegistry | None) -> None:
        """`registry` has the metrics to send."""
        self._wanted = wanted
        self._registry = registry
        self._waiting: queue.Queue[Record | None] = queue.Queue(_MOST_WAITING)
        """None wakes the thread, so that it notices that it is closed."""
        self._n_dropped = 0
        self._flush_s = 0.0
        self._begin: Callable[[], Awaitable[StartRecord]] | None = None
        self._closing = Latch()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def begin(self, start: Callable[[], Awaitable[StartRecord]]) -> None:
        """Start the thread. It awaits `start()`, which returns when the start of the worker has succeeded or failed."""
        self._begin = start
        self._thread.start()

    def trace(self, record: Record) -> None:
        """Queue a record for the traces. Never waits and never raises: if the queue is full, the record is dropped."""
        if self._wanted.traces:
            try:
                self._waiting.put_nowait(record)
            except queue.Full:
                self._n_dropped += 1

    def close(self, timeout_s: float) -> None:
        """Send the queued records within `timeout_s` and end the thread. Does not wait for a running start."""
        if self._closing.is_set:
            return
        self._flush_s = timeout_s
        self._closing.set()
        with contextlib.suppress(queue.Full):  # if the queue is full, the thread is awake and will notice the end
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._n_dropped:
            logger.warning("traces were dropped: the collector was too slow", extra={"n": self._n_dropped})

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - an error of the collector must not affect the worker
            # Log only the type: the message may contain the collector's URL with a key.
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
    """Read the standard variables of OpenTelemetry from `variables`, which has names in lower case."""
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
    """Return the telemetry that the variables configure, or None.

    If it is not available, a warning is logged, and the worker runs without it.
    """
    requested = wanted(variables, version=version, worker_id=worker_id)
    if not (requested.traces or requested.metrics):
        return None
    protocol = variables.get("otel_exporter_otlp_protocol", "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning(
            "no telemetry: this OTEL_EXPORTER_OTLP_PROTOCOL is not supported. Set http/protobuf and the collector's "
            "port for it, usually 4318",
            extra={"protocol": protocol},
        )
        return None
    if not _is_installed():
        logger.warning(
            "no telemetry: an OTLP endpoint is set, but OpenTelemetry is not installed", extra={"install": _INSTALL}
        )
        return None
    return Telemetry(requested, registry)


def _interval_s(variables: Mapping[str, str]) -> float:
    interval_ms = variables.get("otel_metric_export_interval", "")
    return (int(interval_ms) if interval_ms.isdecimal() and int(interval_ms) else _PUSH_EVERY_MS) / 1000


def _is_installed() -> bool:
    try:
        return all(map(importlib.util.find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:
        return False

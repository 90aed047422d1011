"""The metrics of the worker for Prometheus.

The engine counts with plain integers, which are read at each scrape. Requests are counted here when they end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar, get_args

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker_gguf.engine.stats import BATCH_BOUNDS, EngineStats
from worker_gguf.errors import DeploymentError, SettingsError, Unfit, WorkerError
from worker_gguf.observe.status import Status

if TYPE_CHECKING:
    from worker_gguf.observe.account import Record

__all__ = ["Metrics", "ModelCounts"]

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_QUEUE_WAIT_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1)


class ModelCounts(Struct, frozen=True):
    """The numbers of one model in a worker with several.

    `load_seconds` is the total time of its loads.
    """

    name: str
    is_loaded: bool
    n_waiting: int
    n_loads: int
    load_seconds: float
    n_unloads: int


class Metrics:
    """The metrics of one worker. Has its own registry, so that two workers in one process (a test) share no numbers."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, version: str, *, known_ignored: Iterable[str] = ()) -> None:
        self._known_ignored = frozenset(known_ignored)
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "worker_gguf_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self._ignored = Counter("worker_gguf_ignored_parameters", "Ignored parameters", ["name"], registry=registry)
        self._first_token = Histogram(
            "worker_gguf_time_to_first_token_seconds",
            "Seconds from the start of a request to its first token",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "worker_gguf_time_per_output_token_seconds",
            "Mean seconds between two tokens of an answer",
            buckets=_PER_TOKEN_S,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "worker_gguf_queue_wait_seconds",
            "Seconds from the submission of a request until it had a slot",
            buckets=_QUEUE_WAIT_S,
            registry=registry,
        )
        self._request = Histogram(
            "worker_gguf_request_duration_seconds",
            "Seconds from the first to the last byte of a request, by route",
            ["route"],
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._errors = Counter(
            "worker_gguf_errors", "Requests that ended with an error, by its code", ["code"], registry=registry
        )
        for code in _codes(WorkerError):  # create each at zero, so that Prometheus sees the first error as an increase
            self._errors.labels(code)
        self._reasoning = Counter(
            "worker_gguf_reasoning_tokens", "Tokens of answers that are reasoning", registry=registry
        )
        self._tool_calls = Counter("worker_gguf_tool_calls", "Tool calls in answers", registry=registry)
        self._cancelled = Counter(
            "worker_gguf_cancelled_requests",
            "Requests whose client left, and jobs that were stopped",
            registry=registry,
        )
        self._add_start(registry)
        ProcessCollector(registry=registry)
        build = Gauge("worker_gguf_build_info", "Constant 1; the label is the version", ["version"], registry=registry)
        build.labels(version).set(1)

    def _add_start(self, registry: CollectorRegistry) -> None:
        self._phases = Gauge(
            "worker_gguf_start_phase_seconds", "Seconds of each phase of the start", ["phase"], registry=registry
        )
        self._downloaded = Gauge(
            "worker_gguf_start_download_bytes",
            "Size of the model if this start downloaded it, or waited for a worker that did; else 0",
            registry=registry,
        )
        self._model = Gauge(
            "worker_gguf_model_info",
            "Constant 1; the labels are the served model and the place where it was found",
            ["model", "architecture", "quantization", "source"],
            registry=registry,
        )
        self._degraded = Gauge(
            "worker_gguf_plan_degraded_steps",
            "Steps to smaller memory plans during the load; 0 is as planned",
            registry=registry,
        )

    def ignored_label(self, name: str) -> str:
        """Return the name of an ignored parameter if it is a known one, otherwise `other`, because clients choose the
        names.
        """
        return name if name in self._known_ignored else "other"

    def observe_request(self, record: Record) -> None:
        """Count a request that has ended."""
        self._requests.labels(record.route, str(record.status)).inc()
        for name in record.ignored:
            self._ignored.labels(self.ignored_label(name)).inc()
        if record.first_token_s is not None:
            self._first_token.observe(record.first_token_s)
        for seconds in record.seconds_per_token:
            self._per_token.observe(seconds)
        self._request.labels(record.route).observe(record.seconds)
        if record.queue_wait_s is not None:
            self._queue_wait.observe(record.queue_wait_s)
        if record.code is not None:
            self._errors.labels(record.code).inc()
        if record.is_cancelled:
            self._cancelled.inc()
        self._reasoning.inc(record.reasoning_tokens)
        self._tool_calls.inc(record.tool_calls)

    def set_phase_seconds(self, phases: Mapping[str, float]) -> None:
        """Publish the seconds of each phase of the start."""
        for phase, seconds in phases.items():
            self._phases.labels(phase).set(seconds)

    def set_model(
        self, model: str, architecture: str, quantization: str, source: str, *, downloaded: int, degraded: int
    ) -> None:
        """Publish the result of the start: the downloaded bytes, and the number of steps to smaller plans."""
        self._model.labels(model, architecture, quantization, source).set(1)
        self._downloaded.set(downloaded)
        self._degraded.set(degraded)

    def watch_status(self, status: Callable[[], str]) -> None:
        """Read the worker's state from `status()` at each scrape. Call it once."""
        self.registry.register(_StatusCollector(status))

    def watch_engine(self, stats: Callable[[], EngineStats | None]) -> None:
        """Read the engine's numbers from `stats()` at each scrape. It returns None without an engine. Call it once."""
        self.registry.register(_EngineCollector(stats))

    def watch_models(self, counts: Callable[[], Sequence[ModelCounts]]) -> None:
        """Read the numbers of several models from `counts()` at each scrape. Call it once."""
        self.registry.register(_ModelsCollector(counts))

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


def _codes(error: type[WorkerError]) -> set[str]:
    """Return the error codes that an answer can have."""
    # The first two end the worker, and only the command line raises the last one.
    others = (SettingsError, Unfit, DeploymentError)
    return {error.code}.union(*(_codes(child) for child in error.__subclasses__() if child not in others))


class _StatusCollector:
    """Collects one series for each state of the worker: 1 for the current state, 0 for the others."""

    def __init__(self, status: Callable[[], str]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        return []  # see _EngineCollector.describe

    def collect(self) -> Iterator[Metric]:
        now = self._status()
        family = GaugeMetricFamily("worker_gguf_status", "1 for the current state", labels=["status"])
        for status in get_args(Status):
            family.add_metric([status], float(status == now))
        yield family


class _EngineCollector:
    """Collects the engine's numbers at each scrape."""

    def __init__(self, stats: Callable[[], EngineStats | None]) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        return []  # without this method, the registry would call `collect` at registration

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        if stats is None:
            return
        for name, text, value in (
            ("slots", "Sequences that can run at the same time", stats.n_slots),
            ("busy_slots", "Sequences running now", stats.busy_slots),
            ("cells", "Tokens the KV memory can hold", stats.n_cells),
            ("held_tokens", "Tokens in the KV memory now", stats.held_tokens),
            ("prompt_cache_bytes", "Bytes of sequences that lost their slot, in main memory", stats.saved_bytes),
            ("queue_depth", "Requests waiting for a slot", stats.waiting),
            ("queue_limit", "Requests that may wait; others are refused with 429", stats.max_queue),
        ):
            yield GaugeMetricFamily(f"worker_gguf_{name}", text, value=value)
        for name, text, total in (
            ("prompt_tokens", "Prompt tokens, including cached ones", stats.prompt_tokens),
            ("cached_tokens", "Prompt tokens that were not computed again", stats.cached_tokens),
            ("completion_tokens", "Tokens of answers", stats.completion_tokens),
            ("guessed_tokens", "Tokens that were guessed and computed (speculation)", stats.guessed_tokens),
            ("guessed_right_tokens", "Guessed tokens that became part of answers", stats.guessed_right_tokens),
            ("drafted_tokens", "Guessed tokens of DRAFT_MODEL or the MTP layer", stats.drafted_tokens),
            ("drafted_right_tokens", "Right tokens of DRAFT_MODEL or the MTP layer", stats.drafted_right_tokens),
            ("constrained_tokens", "Tokens that were held to a grammar", stats.constrained_tokens),
            ("steps", "Steps of the engine", stats.steps),
            ("schedule_seconds", "Seconds of scheduling", stats.schedule_seconds),
            ("draft_seconds", "Seconds in which DRAFT_MODEL or the MTP layer guessed", stats.draft_seconds),
            ("decode_seconds", "Seconds in llama_decode", stats.decode_seconds),
            ("mask_seconds", "Seconds computing masks of grammars, mostly during decodes", stats.mask_seconds),
            ("adapter_switches", "Steps with other LoRA adapters than the step before", stats.adapter_switches),
            ("switch_seconds", "Seconds in which llama.cpp planned for other adapters", stats.switch_seconds),
            ("images_encoded", "Images that were encoded", stats.images_encoded),
            ("images_reused", "Images whose rows were still there", stats.images_reused),
            ("image_seconds", "Seconds of encoding images, beside the steps", stats.image_seconds),
            ("sample_seconds", "Seconds drawing tokens", stats.sample_seconds),
        ):
            yield CounterMetricFamily(f"worker_gguf_{name}", text, value=total)
        yield _finished(stats.finished)
        yield _batch_sizes(stats)


class _ModelsCollector:
    """Collects the numbers of several models, one sample for each model."""

    def __init__(self, counts: Callable[[], Sequence[ModelCounts]]) -> None:
        self._counts = counts

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        counts = self._counts()
        for name, text, values in (
            ("model_loaded", "1 while the model is in memory", [float(count.is_loaded) for count in counts]),
            ("model_waiting", "Requests waiting for the model to be loaded", [count.n_waiting for count in counts]),
        ):
            yield _labelled(GaugeMetricFamily(f"worker_gguf_{name}", text, labels=["model"]), counts, values)
        for name, text, totals in (
            ("model_loads", "Loads of the model", [count.n_loads for count in counts]),
            ("model_load_seconds", "Seconds of all loads of the model", [count.load_seconds for count in counts]),
            ("model_unloads", "Times the model was unloaded for another", [count.n_unloads for count in counts]),
        ):
            yield _labelled(CounterMetricFamily(f"worker_gguf_{name}", text, labels=["model"]), counts, totals)


_FamilyT = TypeVar("_FamilyT", GaugeMetricFamily, CounterMetricFamily)


def _labelled(family: _FamilyT, counts: Sequence[ModelCounts], values: Sequence[float]) -> _FamilyT:
    for count, value in zip(counts, values, strict=True):
        family.add_metric([count.name], value)
    return family


def _finished(finished: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily("worker_gguf_finished", "Sequences ended, by reason", labels=["reason"])
    for reason, count in dict(finished).items():
        family.add_metric([reason], count)
    return family


def _batch_sizes(stats: EngineStats) -> Metric:
    bounds = [*(str(bound) for bound in BATCH_BOUNDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(stats.batch_sizes), strict=True))
    return HistogramMetricFamily(
        "worker_gguf_batch_size", "Tokens in one step", buckets=buckets, sum_value=stats.batch_tokens
    )

"""Sends the metrics of the worker over OTLP, for queue workers, which cannot be scraped.

It sends the content of /metrics under the same names. Counters and histograms are cumulative since the start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

__all__ = ["Push", "points"]

_CUMULATIVE = sdk.AggregationTemporality.CUMULATIVE
Labels = tuple[tuple[str, str], ...]


class Push:
    """Sends the metrics of a registry. For one thread. The exporter reads the standard OTEL_* variables."""

    def __init__(self, resource: Mapping[str, str], registry: CollectorRegistry) -> None:
        self._registry = registry
        self._resource = Resource.create(dict(resource))
        self._exporter = OTLPMetricExporter()
        self._started_ns = time.time_ns()

    def send(self) -> None:
        """Send the metrics once. The exporter logs a warning if it cannot reach the collector."""
        now_ns = time.time_ns()
        metrics = [points(family, self._started_ns, now_ns) for family in self._registry.collect()]
        scope = sdk.ScopeMetrics(InstrumentationScope("worker_gguf"), [m for m in metrics if m is not None], "")
        self._exporter.export(sdk.MetricsData([sdk.ResourceMetrics(self._resource, [scope], "")]))

    def close(self, timeout_s: float) -> None:
        self._exporter.shutdown(timeout_s * 1000)


def points(family: Metric, started_ns: int, now_ns: int) -> sdk.Metric | None:
    """Convert one metric family of Prometheus to OpenTelemetry. Returns None if it has no samples."""
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    if not samples:
        return None
    if family.type == "histogram":
        data: sdk.Histogram | sdk.Sum | sdk.Gauge = sdk.Histogram(
            list(_histograms(samples, started_ns, now_ns)), _CUMULATIVE
        )
        return sdk.Metric(family.name, family.documentation, "", data)
    numbers = [sdk.NumberDataPoint(dict(sample.labels), started_ns, now_ns, sample.value) for sample in samples]
    if family.type == "counter":
        data = sdk.Sum(numbers, _CUMULATIVE, is_monotonic=True)
        return sdk.Metric(f"{family.name}_total", family.documentation, "", data)
    return sdk.Metric(family.name, family.documentation, "", sdk.Gauge(numbers))


def _histograms(samples: Iterable[Sample], started_ns: int, now_ns: int) -> Iterator[sdk.HistogramDataPoint]:
    """Convert histograms: Prometheus counts all values up to each bound, OpenTelemetry those between two bounds."""
    buckets: dict[Labels, list[tuple[float, float]]] = {}
    sums: dict[Labels, float] = {}
    for sample in samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    for labels, found in buckets.items():
        bounds, upto = zip(*sorted(found), strict=True)
        counts = [int(n - before) for before, n in zip((0.0, *upto), upto, strict=False)]
        yield sdk.HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            count=int(upto[-1]),
            sum=sums.get(labels, 0.0),
            bucket_counts=counts,
            explicit_bounds=list(bounds[:-1]),
            min=None,
            max=None,
        )

"""The dashboard's panels, row by row: title, unit, what it means, and its queries. In a query, @ stands for the
variables' matchers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROWS", "Panel"]


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    help: str
    queries: tuple[tuple[str, str], ...]
    """Legend and PromQL."""
    kind: str = "timeseries"
    width: int = 8
    stack: bool = False


def rate(metric: str, by: str = "", where: str = "@") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{where}}}[$__rate_interval]))"


def quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    buckets = rate(f"{histogram}_bucket", "le")
    return tuple((f"p{round(q * 100)}", f"histogram_quantile({q}, {buckets})") for q in (0.5, 0.95, 0.99))


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Requests",
        (
            Panel(
                "Workers by state",
                "short",
                "How many workers start, serve, drain or have failed.",
                (("{{status}}", "sum by (status) (worker_gguf_status{@})"),),
                stack=True,
            ),
            Panel(
                "Requests",
                "reqps",
                "Requests by status. 499 is a client that left, 429 a full queue.",
                (("{{status}}", rate("worker_gguf_requests_total", "status")),),
                stack=True,
            ),
            Panel(
                "Waiting",
                "short",
                "Requests without a slot, and how many may wait before one is refused.",
                (
                    ("waiting", "sum(worker_gguf_queue_depth{@})"),
                    ("limit", "sum(worker_gguf_queue_limit{@})"),
                ),
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Time to first token",
                "s",
                "From the request to its first token: waiting, prefill, one decode.",
                quantiles("worker_gguf_time_to_first_token_seconds"),
            ),
            Panel(
                "Wait for a slot",
                "s",
                "The part of it that more slots or more workers would take away.",
                quantiles("worker_gguf_queue_wait_seconds"),
            ),
            Panel(
                "Between tokens",
                "s",
                "Mean of each request: what a reader sees as speed.",
                quantiles("worker_gguf_time_per_output_token_seconds"),
            ),
            Panel(
                "Whole requests",
                "s",
                "From the first byte to the last, by route.",
                (
                    (
                        "p95 {{route}}",
                        "histogram_quantile(0.95, "
                        + rate("worker_gguf_request_duration_seconds_bucket", "le, route")
                        + ")",
                    ),
                ),
                width=12,
            ),
            Panel(
                "Where the engine's time goes",
                "percentunit",
                "Seconds per second. The rest of 1 is idle.",
                (
                    ("decode", rate("worker_gguf_decode_seconds_total", "instance")),
                    ("sample", rate("worker_gguf_sample_seconds_total", "instance")),
                    ("schedule", rate("worker_gguf_schedule_seconds_total", "instance")),
                ),
                width=12,
                stack=True,
            ),
        ),
    ),
    (
        "Tokens",
        (
            Panel(
                "Tokens",
                "short",
                "Tokens per second: prompts computed, prompts found in memory, answers.",
                (
                    (
                        "prompt, computed",
                        f"{rate('worker_gguf_prompt_tokens_total')} - {rate('worker_gguf_cached_tokens_total')}",
                    ),
                    ("prompt, cached", rate("worker_gguf_cached_tokens_total")),
                    ("answers", rate("worker_gguf_completion_tokens_total")),
                ),
            ),
            Panel(
                "Prompt tokens found in memory",
                "percentunit",
                "Share of prompt tokens that were not computed again.",
                (
                    (
                        "cached",
                        f"{rate('worker_gguf_cached_tokens_total')} / {rate('worker_gguf_prompt_tokens_total')}",
                    ),
                ),
            ),
            Panel(
                "Tokens of a step",
                "short",
                "How well requests share the model's passes.",
                (
                    *quantiles("worker_gguf_batch_size")[:2],
                    ("mean", f"{rate('worker_gguf_batch_size_sum')} / {rate('worker_gguf_batch_size_count')}"),
                ),
            ),
        ),
    ),
    (
        "Slots & memory",
        (
            Panel(
                "Slots",
                "short",
                "Requests that run, of those that can.",
                (
                    ("busy", "sum(worker_gguf_busy_slots{@})"),
                    ("all", "sum(worker_gguf_slots{@})"),
                ),
            ),
            Panel(
                "KV memory",
                "percentunit",
                "Tokens held, cached prefixes among them, of those that fit. Full is well used; full with requests "
                "waiting is too small.",
                (("{{instance}}", "worker_gguf_held_tokens{@} / worker_gguf_cells{@}"),),
            ),
            Panel(
                "Memory of the process",
                "bytes",
                "Resident: with a mapped model, the pages of it that are in use too.",
                (("{{instance}}", "process_resident_memory_bytes{@}"),),
            ),
        ),
    ),
    (
        "Cold start",
        (
            Panel(
                "Phases of the start",
                "s",
                "Seconds of each phase, the mean over the workers. They overlap: the sum is more than the total.",
                (("{{phase}}", 'avg by (phase) (worker_gguf_start_phase_seconds{@, phase!="total"})'),),
                kind="bargauge",
            ),
            Panel(
                "Start in all",
                "s",
                "From the process's first moment until the worker was ready.",
                (("{{instance}}", 'worker_gguf_start_phase_seconds{@, phase="total"}'),),
            ),
            Panel(
                "Downloaded by the start",
                "bytes",
                "0 where the image, the cache or the volume had the model.",
                (("{{instance}}", "worker_gguf_start_download_bytes{@}"),),
            ),
            Panel(
                "What runs",
                "short",
                "The model of each worker and the worker's version.",
                (
                    (
                        "{{instance}}: {{model}} {{quantization}} from {{source}}, {{version}}",
                        "worker_gguf_model_info{@} * on (job, instance) group_left (version) worker_gguf_build_info{@}",
                    ),
                ),
                kind="stat",
                width=16,
            ),
            Panel(
                "Steps to smaller memory plans",
                "short",
                "0 is as planned. More: memory was short at the load; the log and /health say what was given up.",
                (("{{instance}}", "worker_gguf_plan_degraded_steps{@}"),),
                kind="stat",
            ),
        ),
    ),
    (
        "Errors",
        (
            Panel(
                "Errors by code",
                "reqps",
                "docs/errors.md says what each code means and what to do.",
                (("{{code}}", rate("worker_gguf_errors_total", "code") + " > 0"),),
                stack=True,
            ),
            Panel(
                "Endings",
                "short",
                "How sequences end, per second.",
                (("{{reason}}", rate("worker_gguf_finished_total", "reason")),),
                stack=True,
            ),
            Panel(
                "Clients that left, parameters without effect",
                "short",
                "Per second. The second names what clients send and this worker ignores.",
                (
                    ("left", rate("worker_gguf_cancelled_requests_total")),
                    ("ignored: {{name}}", rate("worker_gguf_ignored_parameters_total", "name")),
                ),
            ),
        ),
    ),
)

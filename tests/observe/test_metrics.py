"""Tests of the metrics in Prometheus' format."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import QueueFull
from worker_gguf.generation.progress import Progress
from worker_gguf.observe.account import Account
from worker_gguf.observe.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_engine_is_read_when_asked() -> None:
    metrics = Metrics("1.2.3")
    stats = EngineStats(n_slots=4)
    metrics.watch_engine(lambda: stats)
    stats.busy_slots, stats.waiting, stats.prompt_tokens, stats.cached_tokens = 3, 7, 100, 40
    stats.finished["stop"] += 2
    for n_tokens in (1, 2, 3, 5000):
        stats.count_batch(n_tokens)
    seen = samples(metrics)
    assert seen["worker_gguf_slots", ()] == 4
    assert seen["worker_gguf_busy_slots", ()] == 3
    assert seen["worker_gguf_queue_depth", ()] == 7
    assert seen["worker_gguf_prompt_tokens_total", ()] == 100
    assert seen["worker_gguf_cached_tokens_total", ()] == 40
    assert seen["worker_gguf_finished_total", (("reason", "stop"),)] == 2
    assert seen["worker_gguf_batch_size_bucket", (("le", "2"),)] == 2
    assert seen["worker_gguf_batch_size_bucket", (("le", "2048"),)] == 3
    assert seen["worker_gguf_batch_size_bucket", (("le", "+Inf"),)] == 4
    assert seen["worker_gguf_batch_size_sum", ()] == 5006
    assert seen["worker_gguf_build_info", (("version", "1.2.3"),)] == 1


def test_no_engine_yet_is_no_error() -> None:
    metrics = Metrics("x")
    metrics.watch_engine(lambda: None)
    assert b"worker_gguf_slots" not in metrics.render()


def test_names_that_clients_make_up_share_one_label() -> None:
    metrics = Metrics("x", known_ignored=["user", "store"])
    account = Account("http", "a")
    account.ignored = ("user", "user", 'a"\n{evil}', "never-heard-of")
    metrics.observe_request(account.close(200))
    seen = samples(metrics)
    assert seen["worker_gguf_ignored_parameters_total", (("name", "user"),)] == 2
    assert seen["worker_gguf_ignored_parameters_total", (("name", "other"),)] == 2


def test_times_and_phases() -> None:
    metrics = Metrics("x")
    account = Account("http", "a")
    at_s = account.started_s
    progress = Progress(at_s, 3, at_s, at_s + 0.03, at_s + 0.07, completion_tokens=11)
    account.submitted([progress], model="m", answer_id="x", stream=False, n=1)
    metrics.observe_request(account.close(200))
    metrics.set_phase_seconds({"load": 1.5})
    metrics.set_phase_seconds({"load": 1.5, "first token": 0.5})
    seen = samples(metrics)
    assert seen["worker_gguf_time_to_first_token_seconds_count", ()] == 1
    assert seen["worker_gguf_time_to_first_token_seconds_bucket", (("le", "0.05"),)] == 1
    assert seen["worker_gguf_time_per_output_token_seconds_sum", ()] == pytest.approx(0.004)
    assert seen["worker_gguf_start_phase_seconds", (("phase", "load"),)] == 1.5
    assert seen["worker_gguf_start_phase_seconds", (("phase", "first token"),)] == 0.5


def test_a_request_that_is_over_is_counted_by_how_it_ended() -> None:
    metrics = Metrics("x")
    good, bad, left = Account("http", "a"), Account("http", "b"), Account("queue", "c")
    now_s = good.started_s
    good.submitted([Progress(now_s, 3, now_s + 0.2)], model="m", answer_id="x", stream=False, n=1)
    bad.error = QueueFull("Full.")
    for account, status in ((good, 200), (bad, 429), (left, 499)):
        account.routed("POST", "/v1/completions", "text_completion")
        metrics.observe_request(account.close(status))
    seen = samples(metrics)
    assert seen["worker_gguf_request_duration_seconds_count", (("route", "/v1/completions"),)] == 3
    assert seen["worker_gguf_queue_wait_seconds_count", ()] == 1
    assert seen["worker_gguf_queue_wait_seconds_sum", ()] == pytest.approx(0.2)
    assert seen["worker_gguf_errors_total", (("code", "queue_full"),)] == 1
    assert seen["worker_gguf_cancelled_requests_total", ()] == 1


def test_every_code_that_a_request_can_be_answered_with_begins_at_zero() -> None:
    seen = samples(Metrics("x"))
    codes = {labels[0][1] for name, labels in seen if name == "worker_gguf_errors_total"}
    assert {"engine_failed", "internal_error", "invalid_api_key", "deadline_exceeded", "not_ready"} <= codes
    assert {"model_not_found", "download_failed", "not_enough_memory"} <= codes  # of one of several models
    assert not {"bad_setting", "deployment_failed", "bad_manifest"} & codes


def test_the_state_is_one_of_its_series() -> None:
    metrics = Metrics("x")
    metrics.watch_status(lambda: "draining")
    states = {labels[0][1]: n for (name, labels), n in samples(metrics).items() if name == "worker_gguf_status"}
    assert states == {"starting": 0, "ready": 0, "reloading": 0, "draining": 1, "stopped": 0, "failed": 0}


def test_two_workers_in_one_process_share_nothing() -> None:
    first, second = Metrics("x"), Metrics("x")
    account = Account("http", "a")
    account.routed("GET", "/v1/models")
    first.observe_request(account.close(200))
    assert b'route="/v1/models"' in first.render()
    assert b'route="/v1/models"' not in second.render()

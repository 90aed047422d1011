"""Tests of a running worker's logs and metrics: one line for each request, known names, no content."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import DEPLOY, OF_THE_SCRAPE, expressions
from tests.e2e.conftest import Running
from worker_gguf.observe.log import configure
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import make_handler

pytestmark = pytest.mark.usefixtures("all_slots_free")

CANARY = "canary-5e1d"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": f"{CANARY} hello"}]


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def log() -> io.StringIO:
    """Everything that the worker logs at its most verbose level."""
    stream = io.StringIO()
    configure("debug", "json", stream=stream)
    return stream


@pytest.fixture
def lines(log: io.StringIO) -> Any:
    """Return the request lines by their ids. Waits for the ids in question, because the line comes after everything
    else.
    """

    def read(*ids: str) -> dict[str, dict[str, Any]]:
        deadline_s = time.monotonic() + 10
        while True:
            whole = log.getvalue().rpartition("\n")[0]
            found = [line for text in whole.splitlines() if (line := json.loads(text))["event"] == "request"]
            by_id = {line["request_id"]: line for line in found}
            if set(ids) <= by_id.keys():
                assert len(found) == len(by_id), "a request with two lines"
                return by_id
            assert time.monotonic() < deadline_s, by_id
            time.sleep(0.005)

    return read


def post(client: httpx.Client, request_id: str, route: str = CHAT, **body: object) -> httpx.Response:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 8} | body
    return client.post(route, json=body, headers={"X-Request-Id": request_id})


def run_job(running: Running, job_id: str, given: object) -> list[Any]:
    handler = make_handler(running.worker, running.worker.metrics, BatchLimits(4))

    async def collect() -> list[Any]:
        return [item async for item in handler({"id": job_id, "input": given})]

    return asyncio.run(collect())


def test_a_line_has_the_times_and_counts_of_a_request(http: httpx.Client, lines: Any) -> None:
    usage = post(http, "whole", ignore_eos=True).json()["usage"]
    line = lines("whole")["whole"]
    assert (
        line
        | {
            "via": "http",
            "method": "POST",
            "route": CHAT,
            "status": 200,
            "cancelled": False,
            "stream": False,
            "n": 1,
            "finish_reasons": ["length"],
            "prompt_tokens": usage["prompt_tokens"],
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "completion_tokens": 8,
        }
        == line
    )
    assert "code" not in line
    assert 0 <= line["queue_wait_ms"] < line["ttft_ms"] < line["total_ms"]
    assert line["prefill_tokens_per_s"] > 0
    assert line["decode_tokens_per_s"] > 0


def test_http_and_queue_have_the_same_fields(running: Running, http: httpx.Client, lines: Any) -> None:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 8, "n": 2, "ignore_eos": True}
    http.post(CHAT, json=body, headers={"X-Request-Id": "over-http"})
    run_job(running, "over-queue", {"route": CHAT, "body": body})
    over_http, over_queue = (lines("over-http", "over-queue")[name] for name in ("over-http", "over-queue"))
    assert over_queue.keys() - over_http.keys() == {"job_id", "posts"}
    assert over_http.keys() <= over_queue.keys()
    page = (DEPLOY.parent / "docs" / "observability.md").read_text("utf-8")
    told = {
        name for cells in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", cells)
    }
    assert over_queue.keys() - {"timestamp", "level", "logger", "event", "method", "route"} <= told
    assert (
        (over_queue["n"], over_queue["completion_tokens"])
        == (over_http["n"], over_http["completion_tokens"])
        == (2, 16)
    )
    assert (over_http["via"], over_queue["via"]) == ("http", "queue")


def test_what_was_refused_or_not_found_has_a_line_with_its_code(
    running: Running, http: httpx.Client, lines: Any
) -> None:
    post(http, "bad", temperature="hot")
    http.post("/v1/nowhere", headers={"X-Request-Id": "nowhere"})
    http.put(CHAT, headers={"X-Request-Id": "put"})
    run_job(running, "bad-job", None)
    found = lines("bad", "nowhere", "put", "bad-job")
    assert {name: (found[name]["status"], found[name]["code"]) for name in ("bad", "nowhere", "put", "bad-job")} == {
        "bad": (400, "invalid_request"),
        "nowhere": (404, "not_found"),
        "put": (405, "method_not_allowed"),
        "bad-job": (400, "invalid_request"),
    }
    assert found["nowhere"]["route"] == "other"


def test_a_request_that_is_left_has_its_counts_too(running: Running, http: httpx.Client, lines: Any) -> None:
    body = {"messages": HELLO, "max_tokens": 900, "ignore_eos": True, "stream": True}
    with http.stream("POST", CHAT, json=body, headers={"X-Request-Id": "left"}) as response:
        next(response.iter_lines())

    async def stopped() -> None:
        handler = make_handler(running.worker, running.worker.metrics, BatchLimits(4))
        with contextlib.suppress(StopAsyncIteration):
            await anext(items := handler({"id": "stopped", "input": body}))
            await items.aclose()

    asyncio.run(stopped())
    for name in ("left", "stopped"):
        line = lines(name)[name]
        assert (line["status"], line["cancelled"], line["stream"]) == (499, True, True)
        assert 1 <= line["completion_tokens"] < 900
        assert line["prompt_tokens"] > 0
        assert line["ttft_ms"] > 0


def test_nothing_that_a_client_wrote_is_in_any_log(
    running: Running, http: httpx.Client, lines: Any, log: io.StringIO
) -> None:
    tool = {"type": "function", "function": {"name": CANARY, "description": CANARY, "parameters": {}}}
    bodies: list[dict[str, Any]] = [
        {"stop": [CANARY], "user": CANARY, "metadata": {CANARY: CANARY}},
        {"stop": [CANARY], "stream": True, CANARY: CANARY, "user": CANARY},
        {"model": CANARY},
        {"tools": [tool]},
        {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": CANARY}}},
        {"grammar": f'root ::= "{CANARY}"'},
        {"response_format": {"type": "json_schema", "json_schema": {"name": CANARY, "schema": {"title": CANARY}}}},
        {"messages": [{"role": CANARY, "content": CANARY}]},
        {"messages": CANARY},
        {"logit_bias": {CANARY: 1}},
        {"temperature": CANARY, "seed": CANARY},
        {"chat_template_kwargs": {CANARY: CANARY}},
        {"n": 2, "stream": True, "logprobs": True, "top_logprobs": 2},
    ]
    ids = []
    for index, changes in enumerate(bodies):
        body: dict[str, Any] = {"messages": HELLO, "max_tokens": 4} | changes
        post(http, f"http-{index}", **body)
        run_job(running, f"queue-{index}", body)
        run_job(running, f"routed-{index}", {"route": CHAT, "body": body, CANARY: CANARY})
        ids += [f"http-{index}", f"queue-{index}", f"routed-{index}"]
    post(http, "completion", "/v1/completions", prompt=CANARY, suffix=CANARY)
    http.get(f"/v1/models/{CANARY}", headers={"X-Request-Id": "model"})
    http.post(CHAT, content=f'{{"messages": "{CANARY}', headers={"X-Request-Id": "cut"})
    run_job(running, "method", {"route": CHAT, "body": {}, "method": CANARY})
    run_job(running, "route", {"route": f"/v1/{CANARY}", "body": {}})
    lines(*ids, "completion", "model", "cut", "method", "route")
    assert len(log.getvalue().splitlines()) >= len(ids)
    assert [text for text in log.getvalue().splitlines() if CANARY in text] == []
    assert CANARY not in running.worker.metrics.render().decode()
    assert CANARY not in json.dumps(running.worker.health())


def test_every_metric_and_label_of_the_dashboard_and_the_alerts_is_there(running: Running, http: httpx.Client) -> None:
    post(http, "for-the-metrics", user="x")
    families = list(text_string_to_metric_families(http.get("/metrics").text))
    labels: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    asked = expressions()
    assert len(asked) > 50
    for expression in asked:
        known: set[str] = set(OF_THE_SCRAPE)
        for name, selected in expression.selectors():
            assert name in labels, f"{expression.where}: there is no {name}"
            assert selected.keys() - OF_THE_SCRAPE <= labels[name], f"{expression.where}: {name} has {labels[name]}"
            known |= labels[name]
        assert expression.grouping() <= known, f"{expression.where}: {expression.grouping() - known}"


def test_values_that_alerts_look_for_can_be(http: httpx.Client) -> None:
    """An alert with a misspelt status, code or phase would never fire."""
    post(http, "full", user="x")
    seen: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                seen.setdefault((sample.name, label), set()).add(value)
    for expression in expressions():
        for name, selected in expression.selectors():
            for label in selected.keys() & {"code", "phase"} | ({"status"} if name.endswith("_status") else set()):
                wanted = set(selected.get(label, "").split("|")) - {""}
                assert wanted <= seen[name, label], f"{expression.where}: {label} is never {wanted}"


def test_metrics_count_each_request_once(running: Running, http: httpx.Client) -> None:
    before = _samples(http)
    post(http, "good")
    post(http, "bad", temperature="hot")
    after = _samples(http)

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more('worker_gguf_requests_total{route="/v1/chat/completions",status="200"}') == 1
    assert more('worker_gguf_errors_total{code="invalid_request"}') == 1
    assert more('worker_gguf_request_duration_seconds_count{route="/v1/chat/completions"}') == 2
    assert more("worker_gguf_queue_wait_seconds_count") == 1
    assert after['worker_gguf_status{status="ready"}'] == 1
    assert after["worker_gguf_start_download_bytes"] == after["worker_gguf_plan_degraded_steps"] == 0
    assert after["process_resident_memory_bytes"] > 1e6


def _samples(http: httpx.Client) -> dict[str, float]:
    found = {}
    for line in http.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found

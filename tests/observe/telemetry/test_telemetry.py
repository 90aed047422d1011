"""Tests of traces and metrics, as a collector in another process receives them over OTLP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import emulator
from tests.fake_backend import FakeBackend
from tests.log_lines import log_lines
from tests.observe.telemetry.conftest import Receiver, Spans
from worker_gguf.errors import DeadlineExceeded, InvalidRequest, WorkerError
from worker_gguf.generation.events import Finished, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.latch import Latch
from worker_gguf.observe.account import Account, Record
from worker_gguf.observe.metrics import Metrics
from worker_gguf.observe.telemetry import StartRecord, Telemetry, open_telemetry, wanted
from worker_gguf.observe.timeline import Timeline
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import make_handler

CANARY = "canary-7f3a"
CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"


def record(
    *,
    status: int = 200,
    error: WorkerError | None = None,
    via: Any = "http",
    n: int = 1,
    traceparent: str | None = None,
) -> Record:
    account = Account(via, "job-1", traceparent=traceparent)
    at_s = account.started_s
    progress = [Progress(at_s + 1, 20, at_s + 3, at_s + 4, at_s + 9, cached_tokens=5, completion_tokens=6)] * n
    account.submitted(progress, model="served", answer_id="chatcmpl-1", stream=True, n=n)
    for index in range(n):
        account.finished(index, Finished("stop", Usage(20, 6, 5)))
    account.error = error
    account.routed("POST", "/v1/chat/completions", "chat")
    return account.close(status)


async def started() -> StartRecord:
    return StartRecord.of(Timeline())


@contextmanager
def exporting(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, metrics: Metrics | None = None, **variables: str
) -> Iterator[Telemetry]:
    """Telemetry as the worker has it; everything is sent when the block is over."""
    variables = {"otel_exporter_otlp_endpoint": collector.url} | variables
    for name, value in variables.items():
        monkeypatch.setenv(name.upper(), value)
    telemetry = open_telemetry(variables, metrics.registry if metrics else None, version="1.2.3", worker_id="pod-9")
    assert telemetry is not None
    telemetry.begin(started)
    yield telemetry
    telemetry.close(10)


def children(spans: Spans, parent: dict[str, Any]) -> Spans:
    found = [span for span in spans if span["parent_id"] == parent["span_id"]]
    return sorted(found, key=lambda span: (span["attributes"].get("worker_gguf.choice", -1), span["start_ns"]))


def request_of(spans: Spans) -> dict[str, Any]:
    return next(span for span in spans if "http.route" in span["attributes"])


def test_a_request_has_its_waiting_its_prefill_and_its_decode(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exporting(collector, monkeypatch) as telemetry:
        telemetry.trace(record(via="queue"))
    spans = collector.received()["spans"]
    request = request_of(spans)
    assert request["name"] == "chat served"
    assert (
        request["attributes"]
        | {
            "worker_gguf.job_id": "job-1",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "served",
            "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.usage.input_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 5,
            "gen_ai.usage.output_tokens": 6,
            "gen_ai.response.finish_reasons": ["stop"],
        }
        == request["attributes"]
    )
    assert request["resource"]["service.name"] == "worker-gguf"
    assert request["resource"]["service.version"] == "1.2.3"
    assert request["resource"]["service.instance.id"] == "pod-9"
    steps = children(spans, request)
    assert [step["name"] for step in steps] == ["prepare", "queue wait", "prefill", "decode"]
    assert [round((step["end_ns"] - step["start_ns"]) / 1e9, 3) for step in steps] == [1, 2, 1, 5]
    assert steps[2]["attributes"]["worker_gguf.computed_tokens"] == 15
    assert {span["trace_id"] for span in [request, *steps]} == {request["trace_id"]}


async def test_a_job_is_traced_under_its_id(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"messages": [{"role": "user", "content": CANARY}], "stream": True}
    with exporting(collector, monkeypatch) as telemetry:
        handler = make_handler(FakeBackend(), Metrics("x"), BatchLimits(4), telemetry)
        assert [item async for item in handler({"id": "job-77", "input": given})]
        assert [item async for item in handler({"id": "job-78", "input": None})]
    spans = [span for span in collector.received()["spans"] if "http.route" in span["attributes"]]
    assert {span["attributes"]["worker_gguf.job_id"]: span["status"] for span in spans} == {"job-77": 0, "job-78": 2}
    assert CANARY not in json.dumps(spans)


def test_a_trace_that_the_client_began_goes_on(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with exporting(collector, monkeypatch) as telemetry:
        telemetry.trace(record(traceparent=TRACEPARENT))
    request = request_of(collector.received()["spans"])
    assert (request["trace_id"], request["parent_id"]) == (CLIENT_TRACE, CLIENT_SPAN)


@pytest.mark.parametrize("traceparent", ["", "garbage", f"00-{'0' * 32}-{'0' * 16}-01", TRACEPARENT + "x" * 100_000])
def test_a_bad_traceparent_begins_a_trace_of_its_own(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, traceparent: str
) -> None:
    with exporting(collector, monkeypatch) as telemetry:
        telemetry.trace(record(traceparent=traceparent))
    request = request_of(collector.received()["spans"])
    assert request["parent_id"] == ""
    assert request["trace_id"] != CLIENT_TRACE


@pytest.mark.parametrize(
    ("given", "is_error"),
    [
        ({}, False),
        ({"status": 504, "error": DeadlineExceeded("Late.")}, True),
        ({"status": 200, "error": DeadlineExceeded("Late, in the stream.")}, True),
        ({"status": 400, "error": InvalidRequest(CANARY)}, False),
        ({"status": 400, "error": InvalidRequest(CANARY), "via": "queue"}, True),
        ({"status": 499}, False),
    ],
)
def test_spans_of_failed_requests_have_the_error_status_but_not_those_of_client_errors(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], is_error: bool
) -> None:
    with exporting(collector, monkeypatch) as telemetry:
        telemetry.trace(record(**given))
    request = request_of(collector.received()["spans"])
    assert (request["status"] == 2) is is_error
    error = given.get("error")
    assert request["attributes"].get("error.type") == (error.code if error else None)
    assert CANARY not in json.dumps(request)


def test_of_very_many_choices_some_are_shown(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with exporting(collector, monkeypatch) as telemetry:
        telemetry.trace(record(n=100))
    request = request_of(spans := collector.received()["spans"])
    assert request["attributes"]["gen_ai.request.choice.count"] == 100
    assert request["attributes"]["gen_ai.usage.output_tokens"] == 600
    assert len(children(spans, request)) == 1 + 8 * 3


def test_metrics_are_pushed_as_they_stand(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("1.2.3")
    for first_token_s in (0.03, 1000.0):
        account = Account("http", "a")
        at_s = account.started_s
        account.routed("POST", "/v1/completions", "text_completion")
        account.submitted([Progress(at_s, 3, at_s, at_s + first_token_s)], model="m", answer_id="x", stream=False, n=1)
        metrics.observe_request(account.close(200))
    with exporting(collector, monkeypatch, metrics, otel_traces_exporter="none") as telemetry:
        telemetry.trace(record())
    got = collector.received()
    assert got["spans"] == []
    points = {(point["name"], tuple(point["labels"].values())): point for point in got["metrics"]}
    assert points["worker_gguf_requests_total", ("/v1/completions", "200")]["value"] == 2
    assert points["worker_gguf_requests_total", ("/v1/completions", "200")]["kind"] == "sum"
    assert points["worker_gguf_build_info", ("1.2.3",)]["kind"] == "gauge"
    first = points["worker_gguf_time_to_first_token_seconds", ()]["value"]
    assert (first["count"], first["sum"]) == (2, pytest.approx(1000.03))
    assert (sum(first["buckets"]), first["buckets"][2], first["buckets"][-1]) == (2, 1, 1)


def test_an_unreachable_collector_delays_no_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        gone = f"http://127.0.0.1:{sock.getsockname()[1]}"
    # In a process of its own: its exporter goes on trying until the process ends, which it must not hold up either.
    code = (
        "import time; from tests.observe.telemetry.test_telemetry import open_telemetry, record, started\n"
        f"telemetry = open_telemetry({{'otel_exporter_otlp_endpoint': {gone!r}}}, None, version='1')\n"
        "telemetry.begin(started)\n"
        "for _ in range(10_000): telemetry.trace(record())\n"
        "before_s = time.monotonic(); telemetry.close(0.5); print(time.monotonic() - before_s)"
    )
    env = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": gone}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout.splitlines()[-1]) < 5


def test_a_start_under_way_is_not_waited_for() -> None:
    telemetry = open_telemetry({"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}, None, version="1")
    assert telemetry is not None
    telemetry.begin(asyncio.Event().wait)  # type: ignore[arg-type]  # never over
    telemetry.close(60)
    assert not telemetry._thread.is_alive()


def test_a_start_that_ends_in_the_moment_of_closing_is_sent(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed start, the waiting thread closes telemetry immediately, perhaps before telemetry's own thread
    notices.
    """

    async def start() -> StartRecord:
        for _ in range(10):
            await asyncio.sleep(0)
        return StartRecord.of(Timeline(), "model_not_found")

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    telemetry = open_telemetry({"otel_exporter_otlp_endpoint": collector.url}, None, version="1")
    assert telemetry is not None
    telemetry.begin(start)
    telemetry.close(10)
    telemetry.close(10)  # again, as `finally` does
    (span,) = collector.received()["spans"]
    assert (span["name"], span["attributes"]["error.type"]) == ("cold start", "model_not_found")


def test_telemetry_closes_while_its_queue_is_full(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    over = Latch()

    async def start() -> StartRecord:
        await over.wait()
        return await started()

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    telemetry = open_telemetry({"otel_exporter_otlp_endpoint": collector.url}, None, version="1")
    assert telemetry is not None
    telemetry.begin(start)
    for _ in range(5000):  # more than may wait
        telemetry.trace(record())
    over.set()
    telemetry.close(20)
    assert not telemetry._thread.is_alive()


def test_what_stops_it_is_logged_without_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start() -> StartRecord:
        raise ValueError("http://key@collector")

    with log_lines() as log:
        telemetry = open_telemetry({"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}, None, version="1")
        assert telemetry is not None
        telemetry.begin(start)
        telemetry._thread.join(10)
    assert "ValueError" in log.getvalue()
    assert "collector" not in log.getvalue()


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({}, False, False),
        ({"otel_exporter_otlp_endpoint": "http://x"}, True, True),
        ({"otel_exporter_otlp_traces_endpoint": "http://x"}, True, False),
        ({"otel_exporter_otlp_metrics_endpoint": "http://x"}, False, True),
        ({"otel_exporter_otlp_endpoint": "http://x", "otel_metrics_exporter": "none"}, True, False),
        ({"otel_exporter_otlp_endpoint": "http://x", "otel_sdk_disabled": "true"}, False, False),
    ],
)
def test_the_standard_variables_select_the_signals(variables: dict[str, str], traces: bool, metrics: bool) -> None:
    asked = wanted(variables, version="1")
    assert (asked.traces, asked.metrics) == (traces, metrics)


def test_a_name_that_is_set_is_left_alone() -> None:
    assert "service.name" not in wanted({"otel_service_name": "mine"}, version="1").resource
    assert "service.name" not in wanted({"otel_resource_attributes": "service.name=mine"}, version="1").resource


def test_without_the_extra_there_is_one_sentence_and_the_worker_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)  # an import of it then raises ImportError
    with log_lines() as log:
        assert open_telemetry({"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}, None, version="1") is None
    (line,) = log.read_all()
    assert line["install"] == "pip install 'worker-gguf[otel]'"


def test_another_protocol_is_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    variables = {"otel_exporter_otlp_endpoint": "http://127.0.0.1:9", "otel_exporter_otlp_protocol": "grpc"}
    assert open_telemetry(variables, None, version="1") is None
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in caplog.text


def test_where_nothing_is_asked_for_nothing_is_imported() -> None:
    code = (
        "import sys\n"
        "from worker_gguf.observe.telemetry import open_telemetry\n"
        "import worker_gguf.worker\n"
        "assert open_telemetry({}, None, version='1') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_served_worker_sends_its_start_and_its_requests_before_it_leaves(collector: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {
        "MODE": "http",
        "PORT": str(port),
        "N_THREADS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20of-the-collector",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",  # nothing leaves by itself within the test
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker_gguf", "serve"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_ready(port)
        body = {"messages": [{"role": "user", "content": CANARY}], "user": CANARY, "max_tokens": 5, "stop": [CANARY]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert httpx.post(url, json=body, headers={"traceparent": TRACEPARENT}, trust_env=False).status_code == 200
    finally:
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=20)
    assert worker.returncode == 0
    got = collector.received()
    spans = got["spans"]
    start = next(span for span in spans if span["name"] == "cold start")
    assert {"imports", "fetch", "load", "context", "first token"} <= {span["name"] for span in children(spans, start)}
    assert request_of(spans)["trace_id"] == CLIENT_TRACE
    assert {step["name"] for step in children(spans, request_of(spans))} >= {"queue wait", "prefill", "decode"}
    assert {span["resource"]["service.name"] for span in spans} == {"mine"}
    assert {headers["authorization"] for headers in got["headers"]} == {"Bearer of-the-collector"}
    assert any(point["name"] == "worker_gguf_completion_tokens_total" and point["value"] for point in got["metrics"])
    assert CANARY not in json.dumps(got)
    assert CANARY not in log
    assert "of-the-collector" not in log


def test_a_start_that_failed_in_queue_mode_is_sent_before_the_sdk_ends_the_process(collector: Receiver) -> None:
    with emulator.start() as platform:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment |= platform.worker_environment("w")
        environment |= {"MODE": "queue", "MODEL": "/nowhere/a.gguf", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        command = [sys.executable, "-m", "worker_gguf", "serve"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    start = next(span for span in collector.received()["spans"] if span["name"] == "cold start")
    assert (start["status"], start["attributes"]["error.type"]) == (2, "model_not_found")


def _wait_ready(port: int) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ping", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline_s, "the worker did not get ready"
        time.sleep(0.02)

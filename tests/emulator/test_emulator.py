"""Tests of both sides of the stand-in, with requests written by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import emulator


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with (
        emulator.start(rules=emulator.Rules(hold_s=0.05, min_wait_s=0.05)) as platform,
        httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=10) as client,
    ):
        yield client


def submit(client: httpx.Client, given: object = None) -> str:
    return str(client.post("/run", json={"input": given}).json()["id"])


def post(client: httpx.Client, kind: str, job: str, body: object) -> httpx.Response:
    # The SDK posts JSON and calls it a form.
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return client.post(f"/{kind}/w/{job}?gpu=x&isStream=true", content=json.dumps(body), headers=headers)


def status(client: httpx.Client, job: str) -> dict[str, object]:
    said: dict[str, object] = client.get(f"/status/{job}").json()
    return said


def test_no_job_is_204_after_the_hold(client: httpx.Client) -> None:
    assert client.get("/job-take/w?gpu=x&job_in_progress=0").status_code == 204
    assert client.get("/job-stop/w?gpu=x").status_code == 204


def test_jobs_are_handed_out_once_and_in_order(client: httpx.Client) -> None:
    jobs = [submit(client, i) for i in range(5)]
    assert client.get("/job-take/w?gpu=x").json() == {"id": jobs[0], "input": 0}
    batch = client.get("/job-take-batch/w?gpu=x&batch_size=3").json()
    assert [job["id"] for job in batch] == jobs[1:4]
    assert [job["id"] for job in client.get("/job-take-batch/w?gpu=x&batch_size=3").json()] == jobs[4:]
    assert client.get("/health").json()["jobs"]["inProgress"] == 5


def test_stream_gives_out_each_chunk_once(client: httpx.Client) -> None:
    job = submit(client)
    client.get("/job-take/w?gpu=x")
    post(client, "job-stream", job, {"output": "a"})
    post(client, "job-stream", job, {"output": "b"})
    assert client.get(f"/stream/{job}").json() == {
        "status": "IN_PROGRESS",
        "stream": [{"output": "a"}, {"output": "b"}],
    }
    post(client, "job-done", job, {"output": ["a", "b"]})
    assert client.get(f"/stream/{job}").json() == {"status": "COMPLETED", "stream": []}
    assert status(client, job)["output"] == ["a", "b"]


def test_error_fails_the_job_and_its_end_is_final(client: httpx.Client) -> None:
    job = submit(client)
    client.get("/job-take/w?gpu=x")
    post(client, "job-done", job, {"error": "no"})
    post(client, "job-done", job, {"output": ["late"]})
    assert (status(client, job)["status"], status(client, job)["error"]) == ("FAILED", "no")


def test_progress_is_no_end(client: httpx.Client) -> None:
    job = submit(client)
    client.get("/job-take/w?gpu=x")
    post(client, "job-done", job, {"status": "IN_PROGRESS", "output": "half"})
    assert (status(client, job)["status"], status(client, job)["output"]) == ("IN_PROGRESS", "half")


def test_cancel_tells_the_worker_that_has_the_job(client: httpx.Client) -> None:
    waiting, taken = submit(client), submit(client)
    client.post(f"/cancel/{waiting}")
    assert client.get("/job-take/w?gpu=x").json()["id"] == taken
    client.post(f"/cancel/{taken}")
    assert client.get("/job-stop/another?gpu=x").status_code == 204
    assert client.get("/job-stop/w?gpu=x").json() == {"jobsToStop": [taken]}
    assert client.get("/job-stop/w?gpu=x").status_code == 204


def test_purge_cancels_waiting_jobs(client: httpx.Client) -> None:
    job = submit(client)
    assert client.post("/purge-queue").json()["removed"] == 1
    assert status(client, job)["status"] == "CANCELLED"
    assert client.get("/job-take/w?gpu=x").status_code == 204


def test_runsync_returns_when_its_wait_is_over(client: httpx.Client) -> None:
    assert client.post("/runsync?wait=50", json={"input": {}}).json()["status"] == "IN_QUEUE"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'"input"'])
def test_request_without_input_is_400(client: httpx.Client, body: bytes) -> None:
    assert client.post("/run", content=body).status_code == 400
    assert client.post("/runsync", content=body).status_code == 400


def test_a_body_over_the_limit_is_413_and_a_sync_one_may_be_twice_as_long() -> None:
    rules = emulator.Rules(max_run_bytes=100, max_sync_bytes=200, hold_s=0.05, min_wait_s=0.01)
    body = {"input": "x" * 120}
    with (
        emulator.start(rules=rules) as platform,
        httpx.Client(base_url=platform.endpoint_url, trust_env=False) as client,
    ):
        assert client.post("/run", json=body).status_code == 413
        assert client.post("/runsync?wait=1", json=body).status_code == 200
        assert client.post("/runsync", json={"input": "x" * 300}).status_code == 413
        assert client.post("/openai/v1/completions", json={"prompt": "x" * 300}).status_code == 413


def test_a_result_over_the_limit_fails_the_job_with_a_reason() -> None:
    rules = emulator.Rules(max_sync_bytes=200, hold_s=0.05)
    with (
        emulator.start(rules=rules) as platform,
        httpx.Client(base_url=platform.endpoint_url, trust_env=False) as client,
    ):
        job = submit(client)
        client.get("/job-take/w?gpu=x")
        assert post(client, "job-done", job, {"output": "x" * 300}).status_code == 413
        assert status(client, job)["status"] == "FAILED"
        assert "refused the result" in str(status(client, job)["error"])


def test_a_policy_out_of_bounds_is_400(client: httpx.Client) -> None:
    assert client.post("/run", json={"input": 1, "policy": {"ttl": 10_000}}).status_code == 200
    refused = client.post("/run", json={"input": 1, "policy": {"ttl": 9_999}})
    assert (refused.status_code, "policy.ttl" in refused.json()["error"]) == (400, True)


def test_retry_queues_a_failed_job_under_its_id(client: httpx.Client) -> None:
    job = submit(client)
    assert client.post(f"/retry/{job}").status_code == 400
    client.get("/job-take/w?gpu=x")
    post(client, "job-done", job, {"error": "no"})
    assert client.post(f"/retry/{job}").json() == {"id": job, "status": "IN_QUEUE"}
    assert client.get("/job-take/w?gpu=x").json()["id"] == job


def test_health_counts_workers_by_state(client: httpx.Client) -> None:
    client.get("/ping/idle")
    client.get("/ping/busy?job_id=a,b")
    client.get("/ping/ill?status=unhealthy&check=engine&reason=x")
    workers = client.get("/health").json()["workers"]
    assert (workers["idle"], workers["running"], workers["unhealthy"], workers["ready"]) == (1, 1, 1, 2)


def test_an_openai_stream_whose_worker_dies_ends_with_an_error_event() -> None:
    with (
        emulator.start(rules=emulator.Rules(hold_s=0.05)) as platform,
        httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=30) as client,
        httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=30) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        body = {"messages": [], "stream": True}
        has_first = threading.Event()

        def read() -> str:
            texts = []
            with client.stream("POST", "/openai/v1/chat/completions", json=body) as answer:
                for text in answer.iter_text():
                    texts.append(text)
                    has_first.set()
            return "".join(texts)

        answer = pool.submit(read)
        while (taken := worker.get("/job-take/w?gpu=x")).status_code == 204:
            pass
        post(worker, "job-stream", taken.json()["id"], {"output": "data: {}\n\n"})
        assert has_first.wait(30)
        platform.gone("w")
        while worker.get("/job-take/other?gpu=x").status_code == 204:
            pass
        text = answer.result()
    assert text.startswith("data: {}\n\n")
    assert '"code": "worker_lost"' in text


def test_a_platform_that_comes_back_knows_its_jobs() -> None:
    with emulator.start(rules=emulator.Rules(hold_s=0.05)) as platform:
        with httpx.Client(base_url=platform.endpoint_url, trust_env=False) as first:
            job = submit(first, "x")
        platform.go_away()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{platform.endpoint_url}/health", trust_env=False)
        platform.come_back()
        with httpx.Client(base_url=platform.endpoint_url, trust_env=False) as second:
            assert second.get("/job-take/w?gpu=x").json() == {"id": job, "input": "x"}


def test_unknown_job_is_404(client: httpx.Client) -> None:
    assert client.get("/status/x").status_code == 404
    assert client.get("/stream/x").status_code == 404
    assert client.post("/cancel/x").status_code == 404
    assert post(client, "job-done", "x", {"output": 1}).status_code == 404


def test_the_environment_has_the_variables_of_the_sdk() -> None:
    with emulator.start() as platform:
        environment = platform.worker_environment("w1")
    assert environment["RUNPOD_POD_ID"] == "w1"
    # rp_job.py derives the stop channel and the batch address by replacing this part of the path.
    assert "/job-take/$ID?" in environment["RUNPOD_WEBHOOK_GET_JOB"]
    assert environment["RUNPOD_WEBHOOK_POST_OUTPUT"].endswith("/job-done/$RUNPOD_POD_ID/$ID?gpu=local")

"""Tests of the real SDK in a real process against the emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

import emulator
from tests.batch.conftest import chat, read_results
from tests.fake_backend import SECRET_ANSWER, SECRET_PROMPT, event
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
MESSAGES = [{"role": "user", "content": SECRET_PROMPT}]
TIMEOUT_S = 60


@dataclass
class Running:
    """A worker, its platform, and a client of the endpoint."""

    platform: emulator.RunningEmulator
    process: subprocess.Popen[str]
    client: httpx.Client
    log: Path

    def run_sync(self, given: object) -> dict[str, object]:
        said: dict[str, object] = self.client.post("/runsync", json={"input": given}).json()
        return said

    def submit(self, given: object) -> str:
        return str(self.client.post("/run", json={"input": given}).json()["id"])

    def status(self, job: str) -> str:
        return str(self.client.get(f"/status/{job}").json()["status"])

    def output(self) -> str:
        return self.log.read_text()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with started(tmp_path / "worker.log") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one worker for all tests that do not stop it."""
    with started(tmp_path_factory.mktemp("shared") / "worker.log") as running:
        yield running


@contextmanager
def started(log: Path) -> Iterator[Running]:
    with emulator.start() as platform:
        # The very setting that the SDK has by default, under which it would log every yield.
        environment = {**platform.worker_environment("worker-1"), "RUNPOD_DEBUG_LEVEL": "DEBUG"}
        with log.open("w") as file:
            process = subprocess.Popen(
                [
                    "env",
                    *[f"{name}={value}" for name, value in environment.items()],
                    f"PYTHONPATH={REPOSITORY}:{REPOSITORY / 'src'}",
                    *[sys.executable, "-m", "tests.queue.queue_worker", "4,5", "--rp_log_level=DEBUG"],
                ],
                stdout=file,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        try:
            with httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=TIMEOUT_S) as client:
                yield Running(platform, process, client, log)
        finally:
            process.kill()
            process.wait()
            wait_until(lambda: not _is_alive(process.pid), TIMEOUT_S)  # the process that the SDK forks for its pings


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_jobs_of_every_kind_and_nothing_of_them_in_the_log(shared: Running) -> None:
    whole = shared.run_sync({"openai_route": "/v1/chat/completions", "openai_input": {"messages": MESSAGES}})
    assert whole["status"] == "COMPLETED", shared.output()
    assert isinstance(whole["output"], list)
    assert whole["output"][0]["choices"][0]["message"]["content"] == SECRET_ANSWER

    streamed = shared.run_sync({"messages": MESSAGES, "stream": True, "n_events": 30})
    assert isinstance(streamed["output"], list)
    assert "".join(streamed["output"]) == b"".join(event(i) for i in range(30)).decode() + "data: [DONE]\n\n"

    refused = shared.run_sync({"messages": MESSAGES, "full": True})
    assert refused["status"] == "FAILED"
    assert json.loads(str(refused["error"]))["error"]["code"] == "queue_full"

    bad_inputs: list[object] = [None, [], "text", {"messages": MESSAGES, "boom": True}]
    for bad in bad_inputs:
        failed = shared.run_sync(bad)
        assert failed["status"] == "FAILED"
        assert {"message", "type", "param", "code"} <= json.loads(str(failed["error"]))["error"].keys()
    assert SECRET_PROMPT not in shared.output()
    assert SECRET_ANSWER not in shared.output()


def test_a_batch_is_a_job_whose_yields_are_the_file_of_results(shared: Running) -> None:
    requests = [chat(str(number), messages=MESSAGES) for number in range(200)] + ["no request"]
    job = shared.run_sync({"batch": requests})
    assert job["status"] == "COMPLETED", shared.output()
    yields = job["output"]
    assert isinstance(yields, list)
    assert len(yields) < 50  # a post has many results
    results = read_results("".join(yields).encode())
    good = {str(number): 200 for number in range(200)}
    assert {result["custom_id"]: result["response"]["status_code"] for result in results if result["response"]} == good
    (bad,) = [result for result in results if result["error"]]  # which does not fail the job
    assert bad["error"]["message"].startswith("Request 201: ")
    assert shared.run_sync(requests[:1])["status"] == "COMPLETED"

    failed = shared.run_sync({"batch": "http://127.0.0.1:1/in.jsonl"})
    assert failed["status"] == "FAILED"
    assert "not on the public internet" in json.loads(str(failed["error"]))["error"]["message"]
    assert SECRET_PROMPT not in shared.output()
    assert SECRET_ANSWER not in shared.output()


def test_official_client_through_the_platforms_openai_route(shared: Running) -> None:
    http_client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=shared.platform.openai_url, api_key="rp", http_client=http_client) as client:
        assert client.models.list().data[0].id == "fake"
        chat = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "a"}])
        assert chat.choices[0].message.content == SECRET_ANSWER
        stream = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "a"}], stream=True)
        assert [chunk.choices[0].delta.content for chunk in stream] == [f"{SECRET_ANSWER} {i}" for i in range(3)]


def test_stopped_job_frees_its_slot_and_sigterm_waits_for_the_others(running: Running) -> None:
    stopped = running.submit({"messages": MESSAGES, "stream": True, "hang": True})
    wait_until(lambda: running.status(stopped) == "IN_PROGRESS", TIMEOUT_S)
    chunks = running.client.get(f"/stream/{stopped}").json()["stream"]
    assert chunks[0]["output"].startswith("data: ")
    assert running.client.post(f"/cancel/{stopped}").json()["status"] == "CANCELLED"

    slow = running.submit({"messages": MESSAGES, "stream": True, "n_events": 3000})
    wait_until(lambda: running.status(slow) != "IN_QUEUE", TIMEOUT_S)
    running.process.send_signal(signal.SIGTERM)
    started_s = time.monotonic()
    assert running.process.wait(TIMEOUT_S) == 0
    assert time.monotonic() - started_s < 10  # not the 90 s of the SDK's long polls
    assert running.status(slow) == "COMPLETED"
    assert "drained True cancelled 1 left 0" in running.output()


def test_a_batch_shows_its_progress_and_a_stop_ends_all_its_requests(running: Running) -> None:
    hanging = [chat(str(number), hang=True) for number in range(3)]
    job = running.submit({"batch": [chat("quick"), *hanging]})

    def progress() -> object:
        return running.client.get(f"/status/{job}").json().get("output")

    wait_until(lambda: isinstance(progress(), dict), TIMEOUT_S)
    shown = progress()
    assert isinstance(shown, dict)
    assert (shown["requests"], shown["answered"], shown["errors"]) == (4, 1, 0)
    chunks = running.client.get(f"/stream/{job}").json()["stream"]
    assert [result["custom_id"] for result in read_results(chunks[0]["output"].encode())] == ["quick"]
    assert running.client.post(f"/cancel/{job}").json()["status"] == "CANCELLED"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(TIMEOUT_S) == 0
    assert "drained True cancelled 3 left 0" in running.output()


def test_a_worker_pings_with_its_jobs_and_no_ping_comes_after_it_is_killed(running: Running) -> None:
    job = running.submit({"messages": MESSAGES, "stream": True, "hang": True})
    wait_until(lambda: running.client.get("/health").json()["workers"]["ready"] == 1, TIMEOUT_S)
    wait_until(lambda: job in running.platform.pings().get("worker-1", []), TIMEOUT_S)
    assert _is_alive(running.process.pid)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not _is_alive(running.process.pid), TIMEOUT_S)

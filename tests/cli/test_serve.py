"""Tests of `worker-gguf serve`, run as a user runs it: the process, its exit code and its output."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fake_hub import FakeHub
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.worker_process import free_port


def environment(**own: str) -> dict[str, str]:
    return {**os.environ, "MODE": "http", "HOST": "127.0.0.1", "N_THREADS": "1", "N_CTX": "512", **own}


def run(**own: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker_gguf", "serve"]
    return subprocess.run(command, env=environment(**own), capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def serving(**own: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "worker_gguf"], env=environment(PORT=port, **own), stderr=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def wait_for(url: str, status: int, process: subprocess.Popen[str]) -> set[int]:
    """Poll /ping until it says `status`; every status seen on the way."""
    seen: set[int] = set()
    deadline_s = time.monotonic() + 100
    while status not in seen:
        assert time.monotonic() < deadline_s, seen
        assert process.poll() is None, process.communicate()[1]
        try:
            seen.add(httpx.get(f"{url}/ping", timeout=10).status_code)
        except httpx.TransportError:
            continue  # not bound yet
    return seen


def test_a_bad_setting_stops_the_start_with_its_name_value_and_what_was_expected() -> None:
    ended = run(N_CTX="8k")
    assert ended.returncode == 2
    assert "N_CTX='8k'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_model_ends_with_a_sentence() -> None:
    ended = run(MODEL="/nowhere/model.gguf", PORT=str(free_port()))
    assert ended.returncode == 1
    assert "No model file exists" in ended.stderr
    assert "listening" not in ended.stderr
    assert "draining" not in ended.stderr
    assert "stopp" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_ends_with_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run(PORT=str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert "Cannot listen" in ended.stderr
    (bind,) = [line for line in ended.stderr.splitlines() if '"bind"' in line]
    assert '"phase failed"' in bind


def test_a_machine_that_is_not_what_was_asked_for_ends_with_a_sentence() -> None:
    ended = run(N_GPU_LAYERS="5", PORT=str(free_port()))
    assert ended.returncode == 1
    assert "worker-gguf: N_GPU_LAYERS=5, but this llama.cpp is built for the processor only" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_library_that_cannot_be_loaded_ends_with_a_sentence(tmp_path: Path) -> None:
    """As in an image for GPUs on a machine without their driver."""
    (tmp_path / "libllama.so").write_text("no library")
    ended = run(LLAMA_CPP_LIB_PATH=str(tmp_path), PORT=str(free_port()))
    assert ended.returncode == 1
    assert f"worker-gguf: llama.cpp cannot be loaded ({tmp_path}/libllama.so: " in ended.stderr
    assert "use the image for it." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_other_machines_are_not_served_without_keys_unless_asked_for() -> None:
    ended = run(HOST="0.0.0.0", PORT=str(free_port()))
    assert ended.returncode == 2
    assert "ALLOW_UNAUTHENTICATED" in ended.stderr


def test_ping_says_204_then_200_and_sigterm_ends_with_zero() -> None:
    with serving() as (url, process):
        assert wait_for(url, 200, process) <= {204, 200}
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
    assert "draining" not in log
    *_, stopping, stopped = [json.loads(line) for line in log.splitlines()]
    assert stopping["event"] == "stopping: nothing runs"
    assert (stopped["event"], stopped["finished"], stopped["cut_off"]) == ("stopped", 0, 0)
    assert 0 <= stopped["seconds"] < 10


def test_a_misspelt_variable_and_a_context_beyond_the_training_are_warned_of() -> None:
    with serving(N_CTX="4096", N_PARALLEL="1", N_CTXX="100") as (_, process):
        limit = threading.Timer(60, process.kill)
        limit.start()
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "N_CTXX does nothing" in line:
                break
        limit.cancel()
        assert "Did you mean N_CTX?" in said
        assert "N_CTX=4096 is beyond the 2048 tokens the model was trained for" in said


def test_sigterm_lets_a_running_answer_finish() -> None:
    with serving() as (url, process):
        wait_for(url, 200, process)
        body = {"messages": [{"role": "user", "content": "Tell me a long story."}], "max_tokens": 200, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
    said = {line["event"]: line for line in map(json.loads, log.splitlines())}
    assert said["draining: running requests may finish, a second signal ends them"]["requests"] == 1
    assert (said["stopped"]["finished"], said["stopped"]["cut_off"]) == (1, 0)


def test_what_runs_when_the_drain_is_over_ends_with_an_error_and_not_in_the_middle() -> None:
    with serving(DRAIN_TIMEOUT_S="0.2", N_PARALLEL="2") as (url, process):
        wait_for(url, 200, process)
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 450, "ignore_eos": True, "n": 8}
        whole: list[httpx.Response] = []
        asked = threading.Thread(
            target=lambda: whole.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60))
        )
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            asked.start()
            while httpx.get(f"{url}/health").json()["queue"]["waiting"] < 8:
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        asked.join(60)
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "not_ready"
        assert rest[-1] == "data: [DONE]"
        assert whole[0].status_code == 503
        assert whole[0].json()["error"]["code"] == "not_ready"
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in log
        stopped = json.loads(log.splitlines()[-1])
        assert (stopped["event"], stopped["finished"], stopped["cut_off"]) == ("stopped", 0, 2)


def test_queue_mode_without_a_queue_says_what_is_missing() -> None:
    ended = run(MODE="queue")
    assert ended.returncode == 2
    assert "RUNPOD_WEBHOOK_GET_JOB" in ended.stderr


def test_port_health_serves_ping_apart_from_the_api() -> None:
    port = str(free_port())
    with serving(PORT_HEALTH=port, API_KEYS="secret") as (url, process):
        wait_for(f"http://127.0.0.1:{port}", 200, process)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 404
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_model_of_the_hub_is_fetched_once_and_then_found_without_a_request(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.repo("org/tiny-GGUF", {"tiny-Q8_0.gguf": MODEL_PATH.read_bytes(), "tiny-F16.gguf": b"GGUF"})
        own = {"MODEL": "org/tiny-GGUF:q8_0", "MODEL_CACHE_DIR": str(tmp_path), "HF_ENDPOINT": hub.url}
        for source in ("download", "cache"):
            hub.requests.clear()
            with serving(**own) as (url, process):
                wait_for(url, 200, process)
                (model,) = httpx.get(f"{url}/v1/models").json()["data"]
                assert model["id"] == "org/tiny-GGUF"
                assert httpx.get(f"{url}/health").json()["model"]["source"] == source
            assert bool(hub.requests) is (source == "download")
        assert hub.bytes_served == MODEL_PATH.stat().st_size

"""Tests of `worker-gguf batch` as a user runs it, on the embedded model: killed, interrupted, on a full disk."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import chat, read_results, write_requests
from tests.hanging import process_of
from tests.small_disk import give_room, small_disk
from tests.waiting import wait_until
from worker_gguf.batch.dispatch import Dispatch
from worker_gguf.batch.lines import lines_of_list
from worker_gguf.batch.run import run_batch, width_for
from worker_gguf.embedded import published_prompts
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.worker import Worker

PROMPTS = [prompt for prompt in published_prompts() if not prompt.tools]
OWN = {"N_THREADS": "1", "N_PARALLEL": "4", "N_CTX": "1024"}


def request(number: int) -> dict[str, Any]:
    prompt = PROMPTS[number % len(PROMPTS)]
    return chat(f"r{number}", messages=list(prompt.messages), max_tokens=prompt.max_tokens, temperature=0)


def environment(**own: str) -> dict[str, str]:
    return {**os.environ, **OWN, **own}


def start(*words: object, **own: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worker_gguf", "batch", *map(str, words)]
    return subprocess.Popen(command, env=environment(**own), stderr=subprocess.PIPE, text=True, process_group=0)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=180)
    return process.returncode, said


def run(*words: object, **own: str) -> tuple[int, str]:
    return finish(start(*words, **own))


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def has_grown_or_ended(path: Path, before: int, process: subprocess.Popen[str]) -> bool:
    return size(path) > before or process.poll() is not None


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def check(output: Path, n_requests: int) -> None:
    """Every request is answered exactly once, and rightly."""
    results = read_results(output.read_bytes())
    assert Counter(result["custom_id"] for result in results) == {f"r{number}": 1 for number in range(n_requests)}
    assert [result for result in results if result["response"]["status_code"] != 200] == []
    for result in results:
        content = result["response"]["body"]["choices"][0]["message"]["content"]
        assert content == PROMPTS[int(result["custom_id"][1:]) % len(PROMPTS)].expected


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_answers_every_request_exactly_once(paths: tuple[Path, Path]) -> None:
    source, output = paths
    write_requests(source, map(request, range(240)))
    n_kills = 0
    while True:
        before = size(output)
        process = start(*paths)
        wait_until(partial(has_grown_or_ended, output, before, process), 120)
        if n_kills == 5 or process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        finish(process)
        n_kills += 1
        if n_kills % 2:  # a kill in the middle of a write is rare, so its trace is left here
            with output.open("ab") as file:
                file.write(b'{"id":"batch_req_240_0123456789abcdef","custom_id":"r239","resp')
    code, said = finish(process)
    assert code == 0, said
    assert n_kills == 5, "the requests must be more than five runs answer before they are killed"
    check(output, 240)
    content = output.read_bytes()
    code, said = run(*paths)
    assert (code, output.read_bytes()) == (0, content)
    assert "240 of 240 requests have a result" in said
    assert "Loading" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_requests_finish_and_says_how_to_go_on(
    paths: tuple[Path, Path], number: signal.Signals
) -> None:
    source, output = paths
    write_requests(source, map(request, range(120)))
    process = start(*paths)
    wait_until(lambda: size(output) > 0, 120)
    os.killpg(process.pid, number)  # as a terminal does, so the engine process gets it too
    code, said = finish(process)
    assert code == 128 + number, said
    assert "Run the same command again to go on." in said
    assert "Traceback" not in said
    n_answered = len(read_results(output.read_bytes()))
    assert f"{n_answered} of 120 requests have a result" in said
    assert 0 < n_answered < 120
    code, said = run(*paths)
    assert code == 0, said
    assert f"120 requests, {n_answered} of them answered before" in said
    check(output, 120)


def test_a_signal_during_the_load_ends_it(paths: tuple[Path, Path]) -> None:
    write_requests(paths[0], [request(0)])
    process = start(*paths)
    assert process.stderr is not None
    assert process.stderr.readline() == "Loading the model.\n"
    os.killpg(process.pid, signal.SIGINT)
    code, said = finish(process)
    assert code == 130, said
    assert "Traceback" not in said


def test_a_full_disk_stops_it_with_a_sentence_and_with_room_it_goes_on(tmp_path: Path) -> None:
    source = write_requests(tmp_path / "in.jsonl", map(request, range(60)))
    with small_disk(tmp_path / "disk") as disk:
        output = disk / "out.jsonl"
        code, said = run(source, output)
        assert code == 1, said
        assert "No space left on device" in said
        assert "make room and run the same command again" in said
        assert "Traceback" not in said
        n_answered = len(read_results(output.read_bytes()))
        assert 0 < n_answered < 60
        assert f"after the {n_answered} answers" in said
        give_room(disk)
        code, said = run(source, output)
        assert code == 0, said
        check(output, 60)


def test_a_file_that_may_not_grow_stops_it_too(paths: tuple[Path, Path]) -> None:
    source, output = paths
    write_requests(source, map(request, range(120)))
    process = start(*paths)
    wait_until(lambda: size(output) > 0, 120)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16 << 10, resource.RLIM_INFINITY))
    code, said = finish(process)
    assert code == 1, said
    assert "cannot be written (File too large)" in said
    assert 0 < len(read_results(output.read_bytes())) < 120
    assert run(*paths)[0] == 0
    check(output, 120)


def test_faults_of_the_input_are_results_and_the_rest_is_answered(paths: tuple[Path, Path]) -> None:
    good = [json.dumps(request(number)) for number in range(4)]
    odd = [
        '{"custom_id": "torn", "method": "POST"',
        json.dumps(request(4) | {"url": "/v1/nothing"}),
        json.dumps(request(5) | {"method": "PUT"}),
        json.dumps(chat("stream", **request(6)["body"], stream=True)),
        json.dumps(chat("model", **request(6)["body"], model="another")),
        "x" * (2 << 20),
    ]
    paths[0].write_text("\n".join([*good[:2], "", *odd, *good[2:]]))
    code, said = run(*paths, MAX_BODY_MB="1")
    assert code == 0, said
    assert "10 results, 6 of them errors" in said
    results = read_results(paths[1].read_bytes())
    broken = sorted(result["error"]["message"] for result in results if result["error"])
    assert broken[0].startswith("Line 4: The line is not JSON")
    assert broken[1].startswith("Line 9: The line is over the limit")
    errors = {
        result["custom_id"]: result["response"]["body"]["error"]["code"]
        for result in results
        if result["response"] and result["response"]["status_code"] != 200
    }
    assert errors == {
        "r4": "not_found",
        "r5": "method_not_allowed",
        "stream": "unsupported_parameter",
        "model": "not_found",
    }


@pytest.mark.parametrize("max_queue", ["0", "1"])
def test_with_a_small_queue_every_request_is_answered(paths: tuple[Path, Path], max_queue: str) -> None:
    write_requests(paths[0], map(request, range(60)))
    code, said = run(*paths, MAX_QUEUE=max_queue)
    assert code == 0, said
    assert "60 results, 0 of them errors" in said
    check(paths[1], 60)


def test_with_several_models_each_body_names_its_own(paths: tuple[Path, Path]) -> None:
    models = ["first", "second", "FIRST", None, "third"]
    bodies = [request(number)["body"] | ({"model": model} if model else {}) for number, model in enumerate(models)]
    write_requests(paths[0], [chat(str(number), **body) for number, body in enumerate(bodies)])
    roster = "first=embedded, second=embedded"
    code, said = run(*paths, MODELS=roster)
    assert code == 0, said
    answered = {
        result["custom_id"]: result["response"]["body"].get("model") for result in read_results(paths[1].read_bytes())
    }
    assert answered == {"0": "first", "1": "second", "2": "first", "3": "first", "4": None}


async def test_requests_whose_engine_process_is_killed_are_answered_all_the_same() -> None:
    settings = Settings(model="embedded", n_threads=1, n_parallel=4, n_ctx=1024)
    worker = Worker(settings, Metrics("test"))
    worker.start()
    await worker.wait_ready()
    loaded = worker._host
    assert isinstance(loaded, LoadedModel)
    lines = lines_of_list(map(request, range(40)), 1 << 20)
    dispatch = Dispatch(worker, Metrics("test"))
    results = []
    async for result in run_batch(iter(lines), dispatch, width=width_for(worker.n_parallel)):
        results.append(result)
        if len(results) == 10:
            os.kill(process_of(loaded.engine).pid, signal.SIGKILL)
    await asyncio.to_thread(worker.stop)
    assert loaded.engine.n_deaths == 1
    assert Counter(result.line.number for result in results) == dict.fromkeys(range(1, 41), 1)
    assert [result.error for result in results] == [None] * 40

"""Tests of the real SDK in real processes: malformed answers, outages, a decode that hangs, signals."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import emulator
from emulator.workers import Worker, Workers
from tests.emulator.faults import Answer, bad_polls
from tests.emulator.odd_worker import HANG
from tests.fake_backend import event
from tests.waiting import wait_until
from worker_gguf.http.binding import bind

TIMEOUT_S = 90
REPOSITORY = Path(__file__).parents[2]
FAKE = (sys.executable, "-m", "tests.queue.queue_worker")
ODD = (sys.executable, "-m", "tests.emulator.odd_worker")
NONSENSE: list[Answer] = [
    (400, "text/plain", b"nothing"),
    (500, "text/html", b"<h1>oops</h1>"),
    (0, "", b""),
    (200, "application/json", b"{"),
    (200, "application/json", b""),
    (200, "text/html", b"<h1>hello</h1>"),
    (200, "application/json", b'["x", {}, {"id": 7}, {"id": ""}, null]'),
    (200, "application/json", b"[]"),
    (200, "application/json", b"7"),
    (502, "text/html", b""),
]


@contextmanager
def working(
    platform: emulator.RunningEmulator, folder: Path, command: tuple[str, ...], **own: str
) -> Iterator[Workers]:
    environment = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", "N_THREADS": "1", **own}
    workers = Workers(platform, environment, logs=folder, say=lambda line: None, command=command)
    workers.start(1)
    try:
        yield workers
    finally:
        workers.kill()


@contextmanager
def client_of(platform: emulator.RunningEmulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=TIMEOUT_S) as client:
        yield client


def submit(client: httpx.Client, given: object) -> str:
    return str(client.post("/run", json={"input": given}).json()["id"])


def status(client: httpx.Client, job: str) -> dict[str, Any]:
    said: dict[str, Any] = client.get(f"/status/{job}").json()
    return said


def test_nonsense_from_the_platform_is_survived_and_a_second_sigterm_does_not_wait_for_the_drain(
    tmp_path: Path,
) -> None:
    seen: list[Answer] = []
    with (
        emulator.start(wrap=bad_polls(NONSENSE, seen)) as platform,
        client_of(platform) as client,
        working(platform, tmp_path, (*FAKE, "4,3600")) as workers,
    ):
        job = submit(client, {"messages": []})
        wait_until(lambda: status(client, job)["status"] == "COMPLETED", TIMEOUT_S)
        assert seen == NONSENSE
        assert workers.running[1].process.poll() is None
        worker = workers.running[1]
        log = worker.log.read_text()
        assert log.count("the platform is away") < len(NONSENSE)
        assert len(log.splitlines()) < 60  # no storm of polls

        hangs = submit(client, {"messages": [], "stream": True, "hang": True})
        wait_until(lambda: status(client, hangs)["status"] == "IN_PROGRESS", TIMEOUT_S)
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in worker.log.read_text(), TIMEOUT_S)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.wait(TIMEOUT_S)
        workers.check()
        wait_until(lambda: status(client, hangs)["status"] == "IN_QUEUE" or platform.board.n_retried == 1, TIMEOUT_S)


def test_20_streams_are_complete_after_an_outage_of_the_platform(tmp_path: Path) -> None:
    """Gone until a post of the SDK's has failed for the last time that the SDK itself would try."""
    rules = emulator.Rules(post_delay_s=0.4)
    with (
        emulator.start(rules=rules) as platform,
        client_of(platform) as client,
        working(platform, tmp_path, (*FAKE, "20,5")) as workers,
    ):
        jobs = [submit(client, {"messages": [], "stream": True, "n_events": 400}) for _ in range(20)]
        wait_until(lambda: any(job.chunks for job in list(platform.board.jobs.values())), TIMEOUT_S)
        platform.go_away()
        log = workers.running[1].log
        wait_until(
            lambda: any("is away" in line and '"post"' in line for line in log.read_text().splitlines()), TIMEOUT_S
        )
        platform.come_back()
        whole = b"".join(event(i) for i in range(400)).decode() + "data: [DONE]\n\n"
        for job in jobs:
            wait_until(lambda job=job: status(client, job)["status"] != "IN_PROGRESS", TIMEOUT_S)  # type: ignore[misc]
            said = status(client, job)
            assert (said["status"], "".join(said["output"])) == ("COMPLETED", whole)
            stream = client.get(f"/stream/{job}").json()["stream"]
            assert "".join(chunk["output"] for chunk in stream) == whole
        assert platform.board.n_retried == 0
        assert workers.running[1].process.poll() is None


def test_a_decode_that_hangs_fails_its_job_and_the_worker_goes_on(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": HANG}], "max_tokens": 4}
    own = {"MODEL": "embedded", "N_PARALLEL": "2", "N_CTX": "512", "WATCHDOG_S": "1"}
    with (
        emulator.start() as platform,
        client_of(platform) as client,
        working(platform, tmp_path, ODD, **own) as workers,
    ):
        hangs = submit(client, chat)
        wait_until(lambda: status(client, hangs)["status"] == "FAILED", TIMEOUT_S)
        error = json.loads(status(client, hangs)["error"])["error"]
        assert (error["code"], HANG in str(error)) == ("engine_wedged", False)
        next_job = submit(client, chat | {"messages": [{"role": "user", "content": "Hi"}]})
        wait_until(lambda: status(client, next_job)["status"] == "COMPLETED", TIMEOUT_S)
        assert workers.running[1].process.poll() is None


@pytest.mark.parametrize("moment", ["download", "load"])
def test_sigterm_gives_a_start_up(tmp_path: Path, moment: str) -> None:
    """In a download that hangs, and in the first phases of a start."""
    with emulator.start() as platform, bind("127.0.0.1", 0) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/model.gguf"
        own = {"MODEL": url if moment == "download" else "embedded", "MODEL_CACHE_DIR": str(tmp_path / "cache")}
        with working(platform, tmp_path, (sys.executable, "-m", "worker_gguf.cli", "serve"), **own) as workers:
            worker = workers.running[1]
            if moment == "download":
                silent.settimeout(TIMEOUT_S)
                with silent.accept()[0]:  # which says nothing, so that the start comes no further
                    wait_until(lambda: '"sdk"' in worker.log.read_text(), TIMEOUT_S)
                    check_leaves(worker)
            else:
                wait_until(lambda: '"phase"' in worker.log.read_text(), TIMEOUT_S)
                check_leaves(worker)


def check_leaves(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(TIMEOUT_S) in (0, -signal.SIGTERM), worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()

"""Tests of failed starts with the real SDK in a real worker, and that the SDK's own checks are off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import emulator
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread

SMALL = {"MODE": "queue", "N_THREADS": "1", "N_CTX": "256", "N_PARALLEL": "1"}
THE_SDKS = ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "RUNPOD_SKIP_GPU_CHECK")


def environment(platform: emulator.RunningEmulator, **own: str) -> dict[str, str]:
    """What the platform itself sets: it switches none of the SDK's checks off."""
    given = {name: value for name, value in platform.worker_environment("w").items() if name not in THE_SDKS}
    return {**os.environ, **given, **SMALL, **own}


@pytest.mark.parametrize(
    ("own", "check", "said"),
    [
        ({"RUNPOD_GPU_COUNT": "1"}, "devices", "RUNPOD_GPU_COUNT=1, but this llama.cpp"),
        ({"MODEL": "/nowhere/model.gguf"}, "model_not_found", "No model file exists at /nowhere/model.gguf"),
    ],
)
def test_a_start_that_failed_is_reported_as_unhealthy_with_its_sentence(
    own: dict[str, str], check: str, said: str
) -> None:
    pings: list[dict[str, str]] = []

    async def ping(request: Request) -> Response:
        pings.append(dict(request.query_params))
        return Response()

    app = Starlette(routes=[Route("/ping/{worker}", ping)])
    with emulator.start() as platform, ServerThread(app, bind("127.0.0.1", 0)) as recorder:
        env = environment(platform, RUNPOD_WEBHOOK_PING=f"{recorder.url}/ping/$RUNPOD_POD_ID", **own)
        command = [sys.executable, "-m", "worker_gguf"]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr
    (reported,) = [ping for ping in pings if ping.get("status") == "unhealthy"]
    assert reported["check"] == check
    assert said in reported["reason"]
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_good_worker_takes_jobs_though_the_sdks_own_checks_would_stop_it(tmp_path: Path) -> None:
    own = {"RUNPOD_MIN_MEMORY_GB": "1000000"}  # as if the model had filled the machine
    with emulator.start() as platform, (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "worker_gguf"]
        worker = subprocess.Popen(command, env=environment(platform, **own), stdout=log, stderr=log)
        try:
            given = {"input": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}}
            job = httpx.post(f"{platform.endpoint_url}/runsync?wait=100000", json=given, timeout=120).json()
            assert job["status"] == "COMPLETED", (tmp_path / "log").read_text()
        finally:
            worker.terminate()
            worker.wait(60)

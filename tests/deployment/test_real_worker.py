"""Tests of deployments with real workers: the embedded model behind the project's own queue, and behind HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import emulator
from tests.deployment.conftest import BALANCED, MANIFEST, Command, Passing
from tests.deployment.fake_plane import FakePlane
from tests.deployment.fake_runpod import KEY, FakeRunpod
from worker_gguf.deployment.channel import Clock
from worker_gguf.http.binding import bind


@contextmanager
def worker(log: Path, environ: Mapping[str, str]) -> Iterator[None]:
    changed = [f"{name}={value}" for name, value in {"MODEL": "embedded", "N_THREADS": "1", **environ}.items()]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["env", "-u", "HF_TOKEN", *changed, sys.executable, "-m", "worker_gguf.cli", "serve"],
            stdout=stream,
            stderr=stream,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


class Real(Passing):
    """The clock of the wall: what starts takes its time."""

    @property
    def clock(self) -> Clock:
        return Clock()


def test_a_queue_is_waited_for_until_its_worker_answers(command: Command, runpod: FakeRunpod, tmp_path: Path) -> None:
    port = _free_port()
    command.time = Real()
    with emulator.start() as platform:
        urls = FakePlane().urls(platform.endpoint_url, "QUEUE")
        runpod.reach = lambda _id, _type: urls
        with worker(tmp_path / "log", {**platform.worker_environment(), "MODE": "queue", "PORT": str(port)}):
            ended = command.deploy(MANIFEST, "--wait-s", "60")
    assert (ended.code, ended.err) == (0, "")
    assert "second answer after" in ended.out
    assert f"curl {platform.openai_url}/chat/completions" in ended.out


def test_a_balancer_is_waited_for_until_its_worker_answers(
    command: Command, runpod: FakeRunpod, tmp_path: Path
) -> None:
    port = _free_port()
    command.time = Real()
    url = f"http://127.0.0.1:{port}"
    runpod.reach = lambda _id, _type: {"base": url, "health": f"{url}/ping"}
    with worker(tmp_path / "log", {"MODE": "http", "PORT": str(port), "API_KEYS": KEY}):
        ended = command.deploy(BALANCED, "--wait-s", "60")
    assert (ended.code, ended.err) == (0, "")
    assert "the first worker is ready after" in ended.out
    assert "second answer after" in ended.out


def _free_port() -> int:
    with bind("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
        return port

"""Tests of `python -m emulator` as a new user meets it: the commands that it prints work."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.waiting import wait_until
from worker_gguf.http.binding import bind

TIMEOUT_S = 90
REPOSITORY = Path(__file__).parents[2]


class Emulating:
    def __init__(self, process: subprocess.Popen[bytes], out: Path) -> None:
        self.process = process
        self.out = out

    def said(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.out.read_text())


def start(tmp_path: Path, *arguments: str) -> Emulating:
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    out = tmp_path / "out.txt"
    own = [f"PYTHONPATH={REPOSITORY}:{REPOSITORY / 'src'}", "N_THREADS=1", "N_PARALLEL=2", "N_CTX=512"]
    own.append(f"TMPDIR={tmp_path}")
    command = [sys.executable, "-m", "emulator", "--workers", "1", "--port", str(port), *arguments]
    with out.open("wb") as file:
        return Emulating(subprocess.Popen(["env", *own, *command], stdout=file, stderr=file), out)


@pytest.fixture
def emulating(tmp_path: Path) -> Iterator[Emulating]:
    running = start(tmp_path)
    process, out = running.process, running.out
    try:
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(TIMEOUT_S) == 0, out.read_text()
            (log,) = running.said(r"worker-1 starts .* log (\S+)\)")
            assert running.said("logs are removed at the end")
            assert not Path(log).parent.exists()
        finally:
            process.kill()


def test_its_curl_line_and_its_openai_address_answer(emulating: Emulating) -> None:
    wait_until(lambda: bool(emulating.said(r"worker-1 starts")), TIMEOUT_S)
    (url,) = emulating.said(r"curl -s (\S+)")
    (body,) = emulating.said(r"-d '(.*)'")
    job = httpx.post(url, json=json.loads(body), trust_env=False, timeout=TIMEOUT_S).json()
    assert job["output"][0]["choices"][0]["message"]["content"] == "The capital of Italy is Rome.", job
    wait_until(lambda: bool(emulating.said(rf"job {job['id']} COMPLETED")), TIMEOUT_S)

    (base_url,) = emulating.said(r'base_url="(\S+?)"')
    http_client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=base_url, api_key="none", http_client=http_client, timeout=TIMEOUT_S) as client:
        stream = client.chat.completions.create(
            model="embedded",
            messages=[{"role": "user", "content": "Capital of Italy?"}],
            temperature=0,
            stream=True,
        )
        assert "Rome" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_a_model_that_is_not_there_stops_it_with_the_sentence(tmp_path: Path) -> None:
    running = start(tmp_path, "/nowhere/model.gguf")
    try:
        assert running.process.wait(TIMEOUT_S) == 2
    finally:
        running.process.kill()
    assert len(running.said(r"worker-1 cannot be started: No model file exists")) == 1
    assert len(running.said(r"worker-1\S* starts")) == 1
    assert not running.said("worker-1 is ready")
    (kept,) = running.said(r"the logs stay in (\S+)")
    assert "No model file exists" in (Path(kept) / "worker-1.log").read_text()

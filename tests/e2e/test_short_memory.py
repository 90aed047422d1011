"""Tests of a process with less memory than the machine seems to have: it serves with less and logs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

WORKER = """
import asyncio, json, resource, sys
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker
from worker_gguf.llama import backend, runner  # with numpy, which takes memory of its own
import worker_gguf.service.service

backend.start()
settings = Settings(n_ctx=131072, n_ubatch=32, n_batch=32, n_threads=1)
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + (int(sys.argv[1]) << 20),) * 2)
worker = Worker(settings, Metrics("test"))
worker.start()
try:
    asyncio.run(worker.wait_ready())
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "plan": None}))
else:
    print(json.dumps({"error": None, "plan": worker.health()["plan"]}))
worker.stop()
"""


def start(room_mib: int) -> dict[str, object]:
    """Half a GiB of KV memory is planned for 4 sequences.

    The limit is one of addresses, not of memory: without MALLOC_ARENA_MAX each thread that reads ahead reserves 64 MiB.
    """
    command = [sys.executable, "-c", WORKER, str(room_mib)]
    environ = os.environ | {"MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=environ)
    said: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return said


def test_it_serves_fewer_sequences() -> None:
    said = start(480)
    assert said["error"] is None
    plan = said["plan"]
    assert isinstance(plan, dict)
    assert plan["n_parallel"] == 2
    assert plan["degraded"] == ["N_PARALLEL=2 instead of 4: the load ran out of memory"]


def test_it_fails_with_the_right_error_when_nothing_is_left_to_give_up() -> None:
    assert start(100)["error"] == "NotEnoughMemory"

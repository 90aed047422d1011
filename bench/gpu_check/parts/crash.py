"""An engine process is killed under a request. Does the next request get its answer, and how soon?"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bench.gpu_check.job import GOAL_MIB, Job, Served, engine_of
from bench.gpu_check.outcome import Outcome
from worker_gguf.worker_process import ProcessFailed

__all__ = ["measure"]

_POLL_S = 0.02
_TIMEOUT_S = 40.0
_QUESTION = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
_LONG = {"prompt": "Once upon another time", "max_tokens": 900, "ignore_eos": True, "stream": True}


@dataclass(slots=True)
class _Stream:
    """A streamed request in a thread of its own. `began` is set with its first event."""

    began: threading.Event = field(default_factory=threading.Event)
    errors: int = 0
    finishes: int = 0

    def run(self, worker: Served) -> None:
        body, head = json.dumps(_LONG).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{worker.url}/v1/completions", body, head)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
            for line in reply:
                if line.startswith(b"data: {"):
                    self._take(json.loads(line[6:]))
                    self.began.set()

    def _take(self, event: dict[str, Any]) -> None:
        self.errors += "error" in event
        self.finishes += any(choice.get("finish_reason") for choice in event.get("choices", ()))


def measure(job: Job, outcome: Outcome) -> None:
    settings = {"MODEL": str(job.model("dense")), "N_CTX": "1024"}
    with job.worker(**settings) as worker, ThreadPoolExecutor(2) as pool:
        before = _text(worker)
        stream = _Stream()
        streaming = pool.submit(stream.run, worker)
        if not stream.began.wait(_TIMEOUT_S):
            raise RuntimeError(f"the stream did not begin within {_TIMEOUT_S:.0f} s")
        pid = engine_of(worker.pid)
        if pid is None:
            raise RuntimeError("the worker has no engine process")
        used_mib = job.used_mib(pid)
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        # A request that comes before the worker notices the death ends with it. The next one comes after its error.
        streaming.result()
        next_answer = pool.submit(_timed_text, worker)
        health = _wait_until_running(worker)
        outcome.add({"crash_ready_s": time.monotonic() - killed_s})
        ended = f"{stream.errors} errors and {stream.finishes} finishes"
        outcome.check("running request", (stream.errors, stream.finishes) == (1, 0), f"it ended with {ended}")
        _check_next(next_answer, killed_s, before, outcome)
        deaths = health["engine"]["deaths"]
        outcome.check("restart", deaths == 1, f"deaths of the engine process: {deaths}")
        _check_memory(job, worker, used_mib, outcome)


def _text(worker: Served) -> str:
    return str(worker.ask("/v1/completions", _QUESTION)["choices"][0]["text"])


def _timed_text(worker: Served) -> tuple[str, float]:
    text = _text(worker)
    return text, time.monotonic()


def _wait_until_running(worker: Served) -> dict[str, Any]:
    """Return /health when another engine process serves."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            health = worker.health()
        except ProcessFailed:
            health = {}  # /health answers 503 while the model is loaded again
        if health.get("engine", {}).get("deaths") and health["engine"]["state"] == "running":
            return health
        time.sleep(_POLL_S)
    raise RuntimeError(f"no other engine process serves after {_TIMEOUT_S:.0f} s")


def _check_next(answer: Future[tuple[str, float]], killed_s: float, before: str, outcome: Outcome) -> None:
    """Greedy and alone, the next request must get the answer that it got before."""
    try:
        text, answered_s = answer.result()
    except ProcessFailed as error:
        outcome.check("next request", False, f"it failed: {error}")
        return
    outcome.add({"crash_next_answer_s": answered_s - killed_s})
    same = "the same answer as before" if text == before else "another answer than before"
    outcome.check("next request", text == before, f"{same}, {answered_s - killed_s:.2f} s after the kill")


def _check_memory(job: Job, worker: Served, used_mib: float, outcome: Outcome) -> None:
    pid = engine_of(worker.pid)
    after_mib = job.used_mib(pid) if pid is not None else 0.0
    outcome.add({"crash_memory_before_mib": used_mib, "crash_memory_after_mib": after_mib})
    found = f"{used_mib:.0f} MiB in use before the kill, {after_mib:.0f} MiB after the restart"
    outcome.check("memory", after_mib <= used_mib + GOAL_MIB, found)

"""`make demo`: a chat over HTTP and a job over the queue, both by real workers on the embedded model.

Each worker is a process of its own. Its answers are known beforehand (greedy), so the demo can say whether they are
right.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping

import httpx

import emulator
from worker_gguf.embedded import Prompt, published_prompts
from worker_gguf.observe.timeline import draw, read_phases
from worker_gguf.worker_process import ProcessFailed, WorkerProcess, fetch_json

__all__ = ["run_demo"]

_START_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 120.0
_POLL_S = 0.05
# Settings of the shell that would make another worker of it than the one whose answers are published.
_UNSET = ("CHAT_TEMPLATE", "MODEL_ALIAS", "N_CTX")


class DemoFailed(ProcessFailed):
    """The failure, in a sentence."""


def run_demo() -> int:
    """Return 0 only if both answers are the published ones."""
    http_prompt, queue_prompt = _choose(published_prompts())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are stopped then, too
    try:
        are_right = [_demo_http(http_prompt), _demo_queue(queue_prompt)]
    except ProcessFailed as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    print("\nBoth answers are right." if all(are_right) else "\nAn answer is not the published one.")
    return 0 if all(are_right) else 1


def _choose(prompts: tuple[Prompt, ...]) -> tuple[Prompt, Prompt]:
    """Choose a long answer for streaming and a short one for the queue."""
    plain = [prompt for prompt in prompts if not prompt.tools]
    return max(plain, key=lambda prompt: len(prompt.expected)), plain[0]


def _demo_http(prompt: Prompt) -> bool:
    print("HTTP: starting a worker on the embedded model ...", flush=True)
    with _worker({"MODE": "http"}) as worker:
        worker.wait_ready(_POLL_S, _START_TIMEOUT_S)
        print(f"  ready: {worker.url}")
        _print_question(prompt)
        answer = _stream_chat(worker, prompt)
        _print_timeline(worker)
    return _compare(prompt, answer)


def _demo_queue(prompt: Prompt) -> bool:
    print("\nQueue: starting a worker with RunPod's SDK against a local stand-in for the platform ...", flush=True)
    with emulator.start() as platform, _worker({**platform.worker_environment(), "MODE": "queue"}) as worker:
        _print_question(prompt)
        body = {"messages": list(prompt.messages), "temperature": 0, "max_tokens": prompt.max_tokens}
        given = {"openai_route": "/v1/chat/completions", "openai_input": body}
        started_s = time.monotonic()
        job = fetch_json(f"{platform.endpoint_url}/run", {"input": given})
        while job["status"] in ("IN_QUEUE", "IN_PROGRESS"):
            if time.monotonic() - started_s > _START_TIMEOUT_S + _ANSWER_TIMEOUT_S:
                raise DemoFailed(f"The job is still {job['status']}.")
            worker.check_alive()
            time.sleep(_POLL_S)
            job = fetch_json(f"{platform.endpoint_url}/status/{job['id']}")
        if job["status"] != "COMPLETED":
            raise DemoFailed(f"The job is {job['status']}: {job.get('error')}")
        answer: str = job["output"][0]["choices"][0]["message"]["content"]
        print(f"  answer: {answer}")
        print(f"  job: waited {job['delayTime']} ms (the worker's start), ran {job['executionTime']} ms")
    return _compare(prompt, answer)


@contextlib.contextmanager
def _worker(environment: Mapping[str, str]) -> Iterator[WorkerProcess]:
    with tempfile.NamedTemporaryFile(prefix="worker-gguf-demo-", suffix=".log") as log:
        worker = WorkerProcess({"MODEL": "embedded", **environment}, log, unset=_UNSET)
        try:
            yield worker
        except ProcessFailed:
            print(f"\nThe worker's last lines:\n{worker.last_lines()}", file=sys.stderr)
            raise
        finally:
            worker.stop()


def _stream_chat(worker: WorkerProcess, prompt: Prompt) -> str:
    body = {
        "messages": list(prompt.messages),
        "temperature": 0,
        "max_tokens": prompt.max_tokens,
        "stream": True,
    }
    pieces: list[str] = []
    print("  answer: ", end="", flush=True)
    try:
        with (
            httpx.Client(base_url=worker.url, timeout=_ANSWER_TIMEOUT_S, trust_env=False) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as reply,
        ):
            reply.raise_for_status()
            for piece in _pieces(reply.iter_lines()):
                print(piece, end="", flush=True)
                pieces.append(piece)
    except httpx.HTTPError as error:
        raise DemoFailed(f"The chat failed: {error}") from None
    print(f"\n  streamed in {len(pieces)} pieces")
    return "".join(pieces)


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """Return the texts of a stream's server-sent events."""
    for line in lines:
        data = line.removeprefix("data: ")
        if data in ("", "[DONE]"):
            continue
        event = json.loads(data)
        if "error" in event:
            raise DemoFailed(f"The chat failed: {event['error']['message']}")
        for choice in event["choices"]:
            if piece := choice["delta"].get("content"):
                yield piece


def _print_question(prompt: Prompt) -> None:
    print(f"  prompt {prompt.name}: {prompt.messages[-1]['content']}", flush=True)


def _print_timeline(worker: WorkerProcess) -> None:
    phases = read_phases(fetch_json(f"{worker.url}/health").get("timeline", []))
    end_s = max((phase.start_s + (phase.seconds or 0.0) for phase in phases), default=0.0)
    print(f"  cold start, {end_s:.2f} s:")
    print(textwrap.indent(draw(phases, end_s), "    "))


def _compare(prompt: Prompt, answer: str) -> bool:
    if answer.strip() == prompt.expected.strip():
        print("  right")
        return True
    print(f"  WRONG, expected: {prompt.expected}")
    return False


if __name__ == "__main__":
    sys.exit(run_demo())

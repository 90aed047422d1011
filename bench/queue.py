"""Measures the cost of the queue: RunPod's real SDK in a real worker, against the stand-in for the platform.

(a) `stream_over_plain_50ms`: a job of 256 tokens, streamed, over the same job not streamed, when every post takes
    50 ms. `short_stream_over_plain_50ms` is the same for an answer that is computed in 0.2 s, where the one post more
    that a stream needs must show. `token_wait_max_ms`: the longest that an event waits until its post leaves;
(b) `first_post_ms`: from a job's arrival at the front end to the arrival of its first post at the platform, which
    leaves out the SDK's own polling of up to 100 ms;
(c) `queue_over_http_c32`: new tokens per second of 32 jobs at once, over the same 32 requests over HTTP, both answered
    whole; `queue_stream_over_http_c32`: both streamed.
"""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

import emulator
from bench import models, report
from bench.load import Load, encode, percentile, run, run_loop
from bench.process import busy_share, serving
from bench.queue_worker import PICKED
from emulator.jobs import Job
from emulator.workers import Workers
from worker_gguf.embedded import published_prompts
from worker_gguf.queue.posts import Posts
from worker_gguf.worker_process import free_port

RESULTS = Path(__file__).parent / "results"
COMMAND = (sys.executable, "-m", "bench.queue_worker")
POST_DELAY_S = 0.05
CONCURRENCY, PROMPT_TOKENS, MAX_TOKENS = 32, 120, 128
TIMEOUT_S = 300.0


@dataclass
class Queue:
    """The stand-in, one worker, a client."""

    platform: emulator.RunningEmulator
    workers: Workers
    client: httpx.Client
    first_posts: dict[str, float]

    def submit(self, given: object) -> str:
        job_id: str = self.client.post("/run", json={"input": given}).json()["id"]
        return job_id

    def finish(self, job_id: str) -> Job:
        """Wait for the job without a request: this process has the platform's memory."""
        job = self.platform.board.jobs[job_id]
        deadline_s = time.monotonic() + TIMEOUT_S
        while not job.is_over:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the job is still {job.status}")
            time.sleep(0.002)
        if job.status != "COMPLETED":
            raise RuntimeError(f"the job is {job.status}: {job.error}")
        return job

    def picked(self) -> dict[str, float]:
        """Return when each job reached the front end."""
        log = self.workers.running[1].log.read_text()
        found = (line.split() for line in log.splitlines() if line.startswith(PICKED))
        return {job_id: float(at_s) for _, job_id, at_s in found}


@contextmanager
def queue(environment: Mapping[str, str], post_delay_s: float) -> Iterator[Queue]:
    """Run a worker against the stand-in; it is warm when the block begins."""
    first_posts: dict[str, float] = {}

    def wrap(app: Any) -> Any:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            path = scope.get("path", "")
            if "/job-stream/" in path:
                first_posts.setdefault(path.rsplit("/", 1)[1], time.monotonic())
            await app(scope, receive, send)

        return watched

    rules = emulator.Rules(post_delay_s=post_delay_s, hold_s=20)
    own = {"LOG_LEVEL": "warning", **environment}
    with (
        tempfile.TemporaryDirectory(prefix="bench-queue-") as folder,
        emulator.start(rules=rules, wrap=wrap) as platform,
        httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=TIMEOUT_S) as client,
    ):
        workers = Workers(platform, own, logs=Path(folder), say=lambda line: None, command=COMMAND)
        workers.start(1)
        try:
            made = Queue(platform, workers, client, first_posts)
            made.finish(made.submit({"route": "/v1/models"}))
            yield made
        finally:
            workers.kill()


def story() -> dict[str, Any]:
    """Return the embedded model's longest answer."""
    prompt = max(published_prompts(), key=lambda prompt: len(prompt.expected))
    chat = {"messages": list(prompt.messages), "temperature": 0, "max_tokens": prompt.max_tokens}
    return {"openai_route": "/v1/chat/completions", "openai_input": chat}


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.measured: dict[str, list[float]] = {}
        self.busy_shares: list[float] = []

    def run(self) -> None:
        self.busy_shares.append(busy_share())
        self.token_waits()
        self.streams()
        self.first_posts()
        self.many()

    def add(self, name: str, value: float) -> None:
        self.measured.setdefault(name, []).append(value)
        print(f"  {name:28} {value:8.3f}", file=sys.stderr, flush=True)

    # --- (a) ------------------------------------------------------------------------------------------------------

    def streams(self) -> None:
        small = models.ensure(models.SHAPES["small"], self.args.cache)
        load = self.load(small, "http://127.0.0.1/v1", 256)
        long = _as_job(encode(load, 0))
        with queue({"MODEL": str(small), "N_PARALLEL": "1", "N_CTX": "512"}, POST_DELAY_S) as made:
            self.compare(made, long, "")
        with queue({"MODEL": "embedded", "N_PARALLEL": "1", "N_THREADS": "1"}, POST_DELAY_S) as made:
            self.compare(made, story(), "short_")

    def compare(self, made: Queue, given: dict[str, Any], name: str) -> None:
        """Both ways in turn, the prompt's prefix known from the first time on."""
        for n in range(self.args.rounds + 1):
            seconds: dict[bool, float] = {}
            for stream in (True, False) if n % 2 else (False, True):
                body = {key: value for key, value in given["openai_input"].items() if key != "stream_options"}
                job = made.finish(made.submit(given | {"openai_input": body | {"stream": stream}}))
                assert job.ended_s is not None
                seconds[stream] = job.ended_s - made.picked()[job.id]
            if n:
                self.add(f"{name}streamed_s", seconds[True])
                self.add(f"{name}plain_s", seconds[False])
                self.add(f"{name}stream_over_plain_50ms", seconds[True] / seconds[False])

    def token_waits(self) -> None:
        waits = asyncio.run(_token_waits())
        self.add("token_wait_max_ms", max(waits) * 1e3)

    # --- (b) ------------------------------------------------------------------------------------------------------

    def first_posts(self) -> None:
        prompts = [prompt for prompt in published_prompts() if not prompt.tools]
        with queue({"MODEL": "embedded", "N_PARALLEL": "1", "N_THREADS": "1"}, 0.0) as made:
            ids = []
            for n in range(self.args.first_posts + 2):
                prompt = prompts[n % len(prompts)]
                chat = {"messages": list(prompt.messages), "temperature": 0, "stream": True}
                ids.append(made.submit({"openai_route": "/v1/chat/completions", "openai_input": chat}))
                made.finish(ids[-1])
            picked = made.picked()
            for job_id in ids[2:]:
                self.add("first_post", (made.first_posts[job_id] - picked[job_id]) * 1e3)

    # --- (c) ------------------------------------------------------------------------------------------------------

    def many(self) -> None:
        model = models.ensure(models.SHAPES["small"], self.args.cache)
        for n in range(self.args.many_rounds):
            self.busy_shares.append(busy_share())
            ways = [self.many_over_http, self.many_over_queue]
            for way in ways if n % 2 else ways[::-1]:
                way(model)
            for kind in ("", "stream_"):
                ratio = self.measured[f"queue_{kind}tokens_per_s"][-1] / self.measured[f"http_{kind}tokens_per_s"][-1]
                self.add(f"queue_{kind}over_http_c32", ratio)

    def environment(self, model: Path) -> dict[str, str]:
        return {"MODEL": str(model), "N_PARALLEL": str(CONCURRENCY), "N_CTX": "512", "LOG_LEVEL": "warning"}

    def many_over_http(self, model: Path) -> None:
        port = free_port()
        own = self.environment(model) | {"MODE": "http", "HOST": "127.0.0.1", "PORT": str(port)}
        command = [sys.executable, "-m", "worker_gguf.cli", "serve"]
        with serving(command, port, "/ping", self.args.cache / "worker.log", own):
            load = self.load(model, f"http://127.0.0.1:{port}/v1")
            figures = run_loop(run(load))
            if figures.errors:
                raise RuntimeError(figures.errors[0])
            self.add("http_stream_tokens_per_s", figures.tokens_per_s)
            seconds = asyncio.run(_whole_over_http(load))
            self.add("http_tokens_per_s", CONCURRENCY * MAX_TOKENS / seconds)

    def many_over_queue(self, model: Path) -> None:
        with queue(self.environment(model), POST_DELAY_S) as made:
            self.at_once(made, self.load(model, "http://127.0.0.1/v1", 8), stream=True)
            for kind in ("stream_", ""):
                seconds = self.at_once(made, self.load(model, "http://127.0.0.1/v1"), stream=bool(kind))
                self.add(f"queue_{kind}tokens_per_s", CONCURRENCY * MAX_TOKENS / seconds)

    def at_once(self, made: Queue, load: Load, *, stream: bool) -> float:
        """Return the seconds from the first submission to the last job's end."""
        begun_s = time.monotonic()
        ids = [made.submit(_as_job(encode(load, n), stream=stream)) for n in range(CONCURRENCY)]
        return max(made.finish(job_id).ended_s or 0.0 for job_id in ids) - begun_s

    def load(self, model: Path, url: str, max_tokens: int = MAX_TOKENS) -> Load:
        return Load(url, model.stem, CONCURRENCY, CONCURRENCY, PROMPT_TOKENS, max_tokens, secrets.token_hex(8))

    # --- the report -----------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        middle = {name: median(values) for name, values in self.measured.items()}
        judged = ("first_post", "queue_over_http_c32", "stream_over_plain_50ms")
        return {
            **{name: value for name, value in middle.items() if name not in judged},
            "first_post_p90_ms": percentile(self.measured["first_post"], 90),
            "stream_over_plain_50ms": middle["stream_over_plain_50ms"],
            "first_post_ms": middle["first_post"],
            "queue_over_http_c32": middle["queue_over_http_c32"],
        }

    def save(self) -> str:
        return report.save_figures(RESULTS, self.args.name, self.figures(), self.measured, self.busy_shares, n_digits=3)


async def _token_waits() -> list[float]:
    """Drive the front end's posts as the SDK does: 300 events, one each 7 ms, every post a round trip of 50 ms."""
    waits: list[float] = []

    async def events() -> Any:
        for _ in range(300):
            await asyncio.sleep(0.007)
            yield f"{time.perf_counter()} ".encode()

    posts = Posts(events())
    async for post in posts:
        waits += [time.perf_counter() - float(made_s) for made_s in post.split()]
        await asyncio.sleep(POST_DELAY_S)
    await posts.close()
    return waits


async def _whole_over_http(load: Load) -> float:
    """Return the seconds that the load's requests take, all at once and none streamed."""
    limits = httpx.Limits(max_connections=CONCURRENCY)
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S, limits=limits) as client:
        bodies = [_as_job(encode(load, n), stream=False)["openai_input"] for n in range(CONCURRENCY)]
        begun_s = time.monotonic()
        answers = await asyncio.gather(*(client.post(f"{load.url}/completions", json=body) for body in bodies))
        seconds = time.monotonic() - begun_s
    for answer in answers:
        answer.raise_for_status()
    return seconds


def _as_job(request: bytes, *, stream: bool = True) -> dict[str, Any]:
    """Return the input of a job for the body of an HTTP request of the load."""
    body = json.loads(request.partition(b"\r\n\r\n")[2]) | {"stream": stream}
    unsaid = {"model"} if stream else {"model", "stream_options"}
    return {
        "openai_route": "/v1/completions",
        "openai_input": {name: value for name, value in body.items() if name not in unsaid},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of (a)")
    parser.add_argument("--first-posts", type=int, default=30, help="jobs of (b)")
    parser.add_argument("--many-rounds", type=int, default=3, help="of (c)")
    parser.add_argument("--name", default="queue", help="of the files in bench/results")
    parser.add_argument("--cache", type=Path, default=models.CACHE)
    bench = Bench(parser.parse_args())
    bench.run()
    print(bench.save())


if __name__ == "__main__":
    main()

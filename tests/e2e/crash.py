"""Kills engine processes at random moments under requests: every request must end exactly once.

`python -m tests.e2e.crash` (`make crash-test`) kills 200 processes under 1,000 requests and prints its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field

from tests.asking import ask
from tests.hanging import process_of
from worker_gguf.errors import EngineCrashed
from worker_gguf.generation.engine import Engine
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.worker import Worker

__all__ = ["Outcome", "crash"]

ENDED_WITHIN_S = 60.0
DONE = b"data: [DONE]\n\n"


@dataclass
class Outcome:
    """`ends` counts the requests by how they ended. `lost` had no ending, and `twice` had more than one."""

    n_requests: int = 0
    n_kills: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    n_processes: int = 0
    """Engine processes that are left at the end."""

    def figures(self) -> dict[str, float]:
        return {
            "crash_requests": self.n_requests,
            "crash_kills": self.n_kills,
            "crash_answered": self.ends["answered"],
            "crash_refused": self.ends["crashed"],
            "crash_wrong": self.wrong,
            "crash_lost": self.lost,
            "crash_twice": self.twice,
            "crash_processes_left": self.n_processes,
        }


async def crash(n_requests: int, n_kills: int, *, at_once: int = 12, seed: int = 7) -> Outcome:
    """Send at least `n_requests`, `at_once` at a time, and kill engine processes at `n_kills` random moments."""
    settings = Settings(
        model="embedded", n_threads=1, n_parallel=4, n_ctx=512, max_queue=100, engine_deaths_within_s=0, watchdog_s=0
    )
    n_before = _children()
    worker = Worker(settings, Metrics("crash"))
    worker.start()
    await worker.wait_ready()
    loaded = worker._host
    assert isinstance(loaded, LoadedModel)
    outcome, chance = Outcome(), random.Random(seed)
    right = {index: await _text(worker, index) for index in range(5)}

    async def send() -> None:
        while outcome.n_requests < n_requests or outcome.n_kills < n_kills:
            outcome.n_requests += 1
            await _one(worker, outcome.n_requests, right[outcome.n_requests % 5], outcome)

    async def kill() -> None:
        while outcome.n_kills < n_kills:
            await asyncio.sleep(chance.uniform(0, 0.4))
            if loaded.engine.is_running:
                _kill(loaded.engine)
                outcome.n_kills += 1

    killing = asyncio.create_task(kill())
    await asyncio.gather(*(send() for _ in range(at_once)))
    await killing
    await asyncio.wait_for(loaded.engine.idle(), ENDED_WITHIN_S)
    await asyncio.to_thread(worker.stop)
    outcome.n_processes = _children() - n_before
    return outcome


async def _one(worker: Worker, number: int, right: str, outcome: Outcome) -> None:
    try:
        async with asyncio.timeout(ENDED_WITHIN_S):
            text = await _text(worker, number % 5) if number % 2 else await _streamed(worker, number % 5, outcome)
    except EngineCrashed:
        outcome.ends["crashed"] += 1
    except TimeoutError:
        outcome.lost += 1
    else:
        outcome.ends["answered"] += 1
        outcome.wrong += text != right


def _body(index: int) -> dict[str, object]:
    return {"prompt": f"Once upon a time, {index}", "max_tokens": 40, "temperature": 0, "seed": 1}


async def _text(worker: Worker, index: int) -> str:
    answer = await ask(worker, "POST", "/v1/completions", _body(index))
    assert isinstance(answer, Answer)
    text: str = answer.body["choices"][0]["text"]
    return text


async def _streamed(worker: Worker, index: int, outcome: Outcome) -> str:
    """Return the text of a stream. Raises EngineCrashed if an error ended it."""
    stream = await ask(worker, "POST", "/v1/completions", _body(index) | {"stream": True})
    assert not isinstance(stream, Answer)
    data = b"".join([events async for events in stream.events])
    events = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
    errors = [event for event in events if "error" in event]
    finished = [event for event in events if event.get("choices") and event["choices"][0]["finish_reason"]]
    outcome.twice += len(errors) + len(finished) != 1 or data.count(DONE) != 1
    if errors:
        raise EngineCrashed(errors[0]["error"]["message"])
    return "".join(event["choices"][0]["text"] for event in events if event.get("choices"))


def _kill(engine: Engine) -> None:
    process = process_of(engine)
    if process.is_alive:
        os.kill(process.pid, signal.SIGKILL)


def _children() -> int:
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:  # noqa: PTH123 - a file of /proc
        return len(file.read().split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    outcome = asyncio.run(crash(arguments.requests, arguments.kills, seed=arguments.seed))
    for name, value in outcome.figures().items():
        print(f"{name} {value}")
    is_good = not (outcome.lost or outcome.twice or outcome.wrong or outcome.n_processes)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

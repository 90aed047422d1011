"""Measures the processor time that the worker process needs for a streamed token, without any computation of a model.

A real worker process talks to an engine process that only repeats tokens (`bench.streams.engine`). The clients run in
this process. In each of them, all streams are open before the measurement begins and stay open until it has ended.

`worker_us_cN`: microseconds of processor time of the worker process per token with N streams, if each of them gets its
tokens one by one at a set rate; `_user_us_` and `_system_us_` are its parts. `most_tokens_per_s_cN`: tokens per second
if the engine process sends them as fast as the worker reads them; then a stream gets several tokens at once.
"""

import argparse
import asyncio
import http.client
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from bench import report
from bench.connection import Connection
from bench.load import post, run_loop
from bench.process import busy_share, serving
from bench.streams.engine import INTERVAL
from worker_gguf.worker_process import free_port

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = (sys.executable, "-m", "bench.streams.worker")
MOST_STEPS_PER_S = 200
MOST_TOKENS_PER_S = 3_200
WARM_UP_S = 1.0
TEXT = "The farmer opened the gate and counted the sheep. "


@dataclass(frozen=True, slots=True)
class Reading:
    """The worker process at one moment. Times are in seconds."""

    at_s: float
    user_s: float
    system_s: float
    n_tokens: int

    @classmethod
    def of(cls, pid: int, port: int) -> Self:
        n_tokens = count_tokens(port)
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), int(user) / ticks_per_s, int(system) / ticks_per_s, n_tokens)


def count_tokens(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^worker_gguf_completion_tokens_total ([\d.e+]+)$", text, re.M)
    if found is None:
        raise RuntimeError("/metrics has no worker_gguf_completion_tokens_total")
    return int(float(found[1]))


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.measured: dict[str, list[float]] = {}
        self.busy_shares: list[float] = []

    def run(self) -> None:
        for _ in range(self.args.rounds):
            self.busy_shares.append(busy_share())
            for n_streams in self.args.concurrency:
                rate = min(MOST_STEPS_PER_S, MOST_TOKENS_PER_S / n_streams)
                first, last, _ = self.streamed(n_streams, 1 / rate)
                n_tokens = last.n_tokens - first.n_tokens
                user_us = (last.user_s - first.user_s) / n_tokens * 1e6
                system_us = (last.system_s - first.system_s) / n_tokens * 1e6
                self.add(f"worker_user_us_c{n_streams}", user_us)
                self.add(f"worker_system_us_c{n_streams}", system_us)
                self.add(f"tokens_per_s_c{n_streams}", n_tokens / (last.at_s - first.at_s))
                self.add(f"worker_us_c{n_streams}", user_us + system_us)
            for n_streams in self.args.concurrency if not self.args.no_most else ():
                first, last, n_events = self.streamed(n_streams, 0.0)
                n_tokens = last.n_tokens - first.n_tokens
                self.add(f"most_tokens_per_event_c{n_streams}", n_tokens / n_events)
                self.add(f"most_tokens_per_s_c{n_streams}", n_tokens / (last.at_s - first.at_s))

    def add(self, name: str, value: float) -> None:
        self.measured.setdefault(name, []).append(value)
        print(f"  {name:28} {value:9.1f}", file=sys.stderr, flush=True)

    def streamed(self, n_streams: int, interval_s: float) -> tuple[Reading, Reading, int]:
        """Return what the worker was at the beginning and at the end, and the number of events between them."""
        port = free_port()
        own = {"MODEL": "embedded", "MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "warning"}
        own |= {"N_PARALLEL": str(n_streams), "N_CTX": "512", INTERVAL: str(interval_s)}
        with serving(COMMAND, port, "/ping", RESULTS / f"{self.args.name}.log", own) as pid:
            return run_loop(measure(pid, port, n_streams, self.args.seconds))

    def figures(self) -> dict[str, float]:
        middle = {name: median(values) for name, values in self.measured.items()}
        parts = [f"worker_us_c{n}" for n in self.args.concurrency]
        return {name: value for name, value in middle.items() if name not in parts} | {n: middle[n] for n in parts}

    def save(self) -> str:
        return report.save_figures(RESULTS, self.args.name, self.figures(), self.measured, self.busy_shares, n_digits=1)


async def measure(pid: int, port: int, n_streams: int, seconds: float) -> tuple[Reading, Reading, int]:
    """Keep `n_streams` open, and read the worker twice, so many `seconds` apart."""
    body = {"prompt": TEXT, "max_tokens": 1 << 18, "stream": True, "ignore_eos": True}
    request = post(f"http://127.0.0.1:{port}/v1", "/completions", body)
    connections = [Connection() for _ in range(n_streams)]
    n_events = [0] * n_streams
    has_begun = asyncio.Event()

    async def read(number: int) -> None:
        def count(piece: bytes) -> None:
            n_events[number] += piece.count(b"data: ")
            if not has_begun.is_set() and all(n_events):
                has_begun.set()

        status = await connections[number].exchange("127.0.0.1", port, request, count)
        raise RuntimeError(f"a stream ended with status {status}")

    reading = [asyncio.create_task(read(number)) for number in range(n_streams)]
    try:
        async with asyncio.timeout(60):
            await asyncio.wait({asyncio.create_task(has_begun.wait()), *reading}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(WARM_UP_S)
        first, n_before = await asyncio.to_thread(Reading.of, pid, port), sum(n_events)
        await asyncio.sleep(seconds)
        last, n_after = await asyncio.to_thread(Reading.of, pid, port), sum(n_events)
        for task in reading:
            if task.done():
                task.result()
        return first, last, n_after - n_before
    finally:
        for task in reading:
            task.cancel()
        for task in reading:
            with suppress(asyncio.CancelledError, Exception):
                await task
        for connection in connections:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--concurrency", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-most", action="store_true", help="leave out the tokens at full speed")
    parser.add_argument("--name", default="streams", help="of the files in bench/results")
    bench = Bench(parser.parse_args())
    bench.run()
    print(bench.save())


if __name__ == "__main__":
    main()

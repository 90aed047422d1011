"""Measures two models that take turns where there is room for one: the swaps and the lost requests.

Requests alternate between the two, 1:1, and a fixed number of them is under way at any time. The worker promises that a
model stays in memory for MODEL_MIN_RESIDENCE_S at least. With room for one, that is at most seconds / residence + 1
swaps: the first may come at once, each further one a residence later. In a second run one client alone alternates
strictly, and each of its answers needs a swap: what it pays for that is printed, and the same bound holds.
"""

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import models, words
from bench.connection import Connection
from bench.process import busy_share, serving
from bench.report import machine
from worker_gguf.worker_process import free_port

RESULTS = Path(__file__).parent / "results"
NAMES = ("first", "second")


@dataclass(slots=True)
class Run:
    """What happened to the requests of one run."""

    n_requests: int
    concurrency: int
    begun_s: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    answered: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NAMES})
    wrong: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    n_swaps: int = 0

    @property
    def lost(self) -> int:
        return self.n_requests - sum(map(len, self.answered.values()))

    @property
    def order_kept(self) -> bool:
        """Return whether each model, which runs one request at a time here, answered in the order of its requests."""
        return all(numbers == sorted(numbers) for numbers in self.answered.values())

    def bound(self, residence_s: float) -> int:
        return int(self.seconds / residence_s) + 1


async def alternate(port: int, run: Run, args: argparse.Namespace) -> None:
    """Send all requests. Each connection takes the next one when its last one is answered."""
    numbers = iter(range(run.n_requests))

    async def client() -> None:
        connection = Connection()
        for number in numbers:
            await ask(port, run, connection, number, args)
        connection.close()

    await asyncio.gather(*(client() for _ in range(run.concurrency)))
    run.seconds = time.perf_counter() - run.begun_s


async def ask(port: int, run: Run, connection: Connection, number: int, args: argparse.Namespace) -> None:
    name = NAMES[number % len(NAMES)]
    wanted = {"model": name, "prompt": words.prompt(args.prompt_tokens, f"{number}"), "max_tokens": args.max_tokens}
    body = json.dumps(wanted | {"ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    said, begun_s = bytearray(), time.perf_counter()
    status = await connection.exchange("127.0.0.1", port, head.encode() + body, said.extend)
    run.waits_s.append(time.perf_counter() - begun_s)
    answer = json.loads(bytes(said))
    if status != 200 or answer["model"] != name or answer["usage"]["completion_tokens"] != args.max_tokens:
        run.wrong.append(f"{number}: {status} {bytes(said)[:200]!r}")
    else:
        run.answered[name].append(number)


def health(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    said: dict[str, Any] = json.load(connection.getresponse())
    connection.close()
    return said


def measure(args: argparse.Namespace) -> tuple[Run, Run, dict[str, Any]]:
    model = models.ensure(models.SHAPES[args.model], args.cache)
    port = free_port()
    env = {"MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "warning"}
    env |= {"MODELS_MAX": "1", "MODEL_MIN_RESIDENCE_S": str(args.residence), "MODEL_TURN_S": str(args.turn)}
    env |= {"N_CTX": "512", "N_PARALLEL": "1"}
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as folder:
        second = Path(folder) / "second.gguf"
        second.symlink_to(model.resolve())
        env["MODELS"] = f"{NAMES[0]}={model},{NAMES[1]}={second}"
        with serving([sys.executable, "-m", "worker_gguf.cli", "serve"], port, "/ping", Path(folder) / "log", env):
            runs = [Run(args.requests, args.concurrency), Run(args.alone, 1)]
            before = 0
            for run in runs:
                run.begun_s = time.perf_counter()
                asyncio.run(alternate(port, run, args))
                after = health(port)
                run.n_swaps, before = after["unloads"] - before, after["unloads"]
            return runs[0], runs[1], after


def figures(many: Run, alone: Run, after: dict[str, Any], residence_s: float) -> dict[str, float | int | bool]:
    """Return the figures in the order of the output, with the most important ones last."""
    return {
        "seconds": round(many.seconds, 2),
        "requests_per_s": round(many.n_requests / many.seconds, 2),
        "answer_p50_s": round(median(many.waits_s), 3),
        "load_s": max(model["last_load_s"] for model in after["models"]),
        "alone_answer_p50_s": round(median(alone.waits_s), 3),
        "alone_swap_count": alone.n_swaps,
        "alone_swap_bound": alone.bound(residence_s),
        "lost": many.lost + alone.lost,
        "order_kept": many.order_kept and alone.order_kept,
        "swap_bound": many.bound(residence_s),
        "swap_count": many.n_swaps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__)
    parser.add_argument("--model", default="small", choices=models.SHAPES)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--alone", type=int, default=10, help="requests of the one client that alternates strictly")
    parser.add_argument("--prompt-tokens", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--residence", type=float, default=3.0, help="MODEL_MIN_RESIDENCE_S")
    parser.add_argument("--turn", type=float, default=10.0, help="MODEL_TURN_S")
    parser.add_argument("--name", default="swap", help="of the files in bench/results")
    parser.add_argument("--cache", type=Path, default=models.CACHE)
    args = parser.parse_args()
    busy = busy_share()
    many, alone, after = measure(args)
    found = figures(many, alone, after, args.residence)
    asked = {name: value for name, value in vars(args).items() if name not in ("cache", "name")}
    written = {"machine": machine(), "settings": asked, "busy_share": busy, "figures": found}
    lines = [f"{name}: {value}" for name, value in {**machine(), **asked}.items()]
    lines += [
        f"in use by others: {busy:.0%} of the processor",
        "",
        *(f"{name} {value}" for name, value in found.items()),
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(written, indent=1) + "\n")
    (RESULTS / f"{args.name}.txt").write_text("\n".join(lines) + "\n")
    for wrong in (*many.wrong, *alone.wrong):
        print(wrong, file=sys.stderr)
    print("\n".join(lines))
    is_good = many.n_swaps <= many.bound(args.residence) and alone.n_swaps <= alone.bound(args.residence)
    return 0 if is_good and not found["lost"] and found["order_kept"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""The whole benchmark: the bare limit, the worker over HTTP and, if asked for, a peer, interleaved and repeated."""

import argparse
import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bench import models, report
from bench.load import Load, ping_p99_ms, run, run_loop
from bench.process import busy_share, fill_command, peak_memory_mb, serving
from worker_gguf.worker_process import free_port

RESULTS = Path(__file__).parent / "results"
PROMPT_TOKENS, MAX_TOKENS = 120, 64


class Bench:
    def __init__(self, args: argparse.Namespace, model: Path) -> None:
        self.args = args
        self.model = model
        self.record = report.Record(
            {
                "model": model.name,
                "requests": {concurrency: self.requests(concurrency) for concurrency in args.concurrency},
                "prompt_tokens": PROMPT_TOKENS,
                "max_tokens": MAX_TOKENS,
                **{name: getattr(args, name) for name in ("rounds", "n_ctx", "n_batch", "n_ubatch", "n_threads")},
                "worker_env": args.worker_env,
                "peer": args.peer_name if args.peer_command or args.peer_url else None,
            }
        )

    def run(self) -> None:
        steps = [self.measure_limits]
        if not self.args.no_worker:
            steps.append(self.measure_worker)
        if self.args.peer_command or self.args.peer_url:
            steps.append(self.measure_peer)
        for n in range(self.args.rounds):
            self.note_other_load()
            for concurrency in self.args.concurrency:
                # Every other round the other way about, so that a drift of the machine favours nobody.
                for step in steps if n % 2 == 0 else reversed(steps):
                    step(concurrency)
                self.save()  # so that an interrupted run keeps what it has measured

    def save(self) -> str:
        """Write the results so far and return them as text."""
        return report.save(self.record, self.args.results, self.args.name)

    def note_other_load(self) -> None:
        """Two threads that wait for each other lose far more than their share to a third."""
        share = busy_share()
        self.record.busy_shares.append(share)
        if share > 0.05:
            print(
                f"  {share:.0%} of the processor is in use by others: expect too little of everything", file=sys.stderr
            )

    def requests(self, concurrency: int) -> int:
        if self.args.waves is None:
            return concurrency * max(3, 48 // concurrency)
        at = self.args.concurrency.index(concurrency) if len(self.args.waves) > 1 else 0
        waves: int = self.args.waves[at]
        return concurrency * waves

    def measure_limits(self, concurrency: int) -> None:
        for kv_unified, name in report.LIMITS.items():
            work = {
                "model": str(self.model),
                "concurrency": concurrency,
                "requests": self.requests(concurrency),
                "prompt_tokens": PROMPT_TOKENS,
                "max_tokens": MAX_TOKENS,
                "n_ctx": self.args.n_ctx,
                "n_batch": self.args.n_batch or 2048,
                "n_ubatch": self.args.n_ubatch or 512,
                "n_threads": self.args.n_threads or os.cpu_count(),
                "n_gpu_layers": -1 if self.args.n_gpu_layers is None else self.args.n_gpu_layers,
                "kv_unified": kv_unified,
            }
            command = [sys.executable, "-m", "bench.limit", json.dumps(work)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            self.add(concurrency, name, json.loads(output.splitlines()[-1]))

    def measure_worker(self, concurrency: int) -> None:
        port = free_port()
        command = [sys.executable, "-m", "worker_gguf.cli", "serve"]
        log = self.args.cache / "worker.log"
        with serving(command, port, "/ping", log, self.worker_env(concurrency, port)) as pid:
            load = self.load(f"http://127.0.0.1:{port}/v1", concurrency)
            measured = self.put_under_load(load)
            self.add(concurrency, "worker", measured | {"peak_memory_mb": peak_memory_mb(pid)})
            if concurrency == max(self.args.concurrency):
                self.record.health = get_json(f"http://127.0.0.1:{port}/health")
                ping = run_loop(ping_p99_ms(load, f"http://127.0.0.1:{port}/ping"))
                self.record.ping_p99_ms.append(ping)
                say(concurrency, "worker", f"ping p99 {ping:.1f} ms")

    def worker_env(self, concurrency: int, port: int) -> dict[str, str]:
        env = {
            "MODE": "http",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "MODEL": str(self.model),
            "N_CTX": str(self.args.n_ctx),
            "N_PARALLEL": str(concurrency),
            "LOG_LEVEL": "warning",
        }
        for name in ("n_batch", "n_ubatch", "n_threads", "n_gpu_layers"):
            if (value := getattr(self.args, name)) is not None:
                env[name.upper()] = str(value)
        return env | dict(pair.split("=", 1) for pair in self.args.worker_env)

    def measure_peer(self, concurrency: int) -> None:
        name = self.args.peer_name
        if self.args.peer_url:
            self.add(concurrency, name, self.put_under_load(self.load(self.args.peer_url, concurrency)))
            return
        port = free_port()
        command = fill_command(self.args.peer_command, self.model, port, concurrency, self.args.n_ctx)
        with serving(command, port, self.args.peer_ready, self.args.cache / "peer.log") as pid:
            measured = self.put_under_load(self.load(f"http://127.0.0.1:{port}/v1", concurrency))
            self.add(concurrency, name, measured | {"peak_memory_mb": peak_memory_mb(pid)})

    def load(self, url: str, concurrency: int) -> Load:
        model = get_json(f"{url}/models")["data"][0]["id"]
        requests, seed = self.requests(concurrency), secrets.token_hex(8)
        return Load(url, model, concurrency, requests, PROMPT_TOKENS, MAX_TOKENS, seed, self.args.api_key)

    def put_under_load(self, load: Load) -> dict[str, float]:
        figures = asdict(run_loop(run(load)))
        if errors := figures.pop("errors"):
            raise SystemExit(f"{len(errors)} of {load.requests} requests failed, the first with: {errors[0]}")
        return figures

    def add(self, concurrency: int, name: str, figures: Mapping[str, float]) -> None:
        self.record.add(concurrency, name, figures)
        say(concurrency, name, f"{figures['tokens_per_s']:.0f} tokens/s")


def say(concurrency: int, name: str, what: str) -> None:
    print(f"  {concurrency:3} at once  {name:24} {what}", file=sys.stderr, flush=True)


def get_json(url: str) -> dict[str, list[dict[str, str]]]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        parsed: dict[str, list[dict[str, str]]] = json.load(answer)
        return parsed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--model", default="small", help=f"{', '.join(models.SHAPES)}, or a GGUF file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--concurrency", type=_numbers, default=[1, 8, 32])
    parser.add_argument(
        "--waves",
        type=_numbers,
        help="requests for each connection, one number or one for each of --concurrency; default: 3, and 48 in all at "
        "least",
    )
    parser.add_argument("--n-ctx", type=int, default=512, help="of one request")
    for name in ("n-batch", "n-ubatch", "n-threads", "n-gpu-layers"):
        parser.add_argument(f"--{name}", type=int, help="for both; default: what each takes by itself")
    parser.add_argument("--worker-env", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    parser.add_argument("--no-worker", action="store_true", help="measure only the limit, and the peer if there is one")
    parser.add_argument("--peer-command", help="a server to start; {model} {port} {n_parallel} {n_ctx} {n_ctx_total}")
    parser.add_argument("--peer-url", help="a server that runs already, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--peer-name", default="peer")
    parser.add_argument("--peer-ready", default="/health", help="the path that answers 200 once the peer is ready")
    parser.add_argument("--api-key")
    parser.add_argument("--name", default="last", help="of the files in --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder; default: bench/results")
    parser.add_argument("--cache", type=Path, default=models.CACHE)
    args = parser.parse_args()
    if args.waves is not None and len(args.waves) not in (1, len(args.concurrency)):
        parser.error("--waves needs one number, or as many as --concurrency")
    if args.quick:
        args.rounds = 1
    return args


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    args = arguments()
    if args.model in models.SHAPES:
        model = models.ensure(models.SHAPES[args.model], args.cache)
    else:
        model = Path(args.model).resolve(strict=True)
    bench = Bench(args, model)
    bench.run()
    print(bench.save())


if __name__ == "__main__":
    main()

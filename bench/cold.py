"""The cold start against its limits: the fastest plain read of the file, llama.cpp's own ways to load, the bare load.

(a) from a FUSE mount whose reads take 3 ms: process start to first token, over the fastest parallel read of the file;
(b) the same model and mount by llama.cpp's load modes in bare processes: process start to first decode;
(c) warm page cache, small model: process start to ready, against a bare process and perhaps llama-server.
Every measurement of (a) and (b) has a mount of its own, so nothing is cached.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import models, words
from bench.process import busy_share, serving
from bench.report import machine
from bench.slow_mount import Mount, mounted, served_bytes, why_not
from worker_gguf.cli.cold_start import READERS, Limit, MeasuredStart, measure_start, picture, plain_read
from worker_gguf.worker_process import free_port

RESULTS = Path(__file__).parent / "results"
N_CTX = 512
POLL_S = 0.01
MODES = ("mmap", "none", "direct")


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.measured: dict[str, list[float]] = {}
        self.pictures: dict[str, str] = {}
        self.busy_shares: list[float] = []

    def run(self) -> None:
        small = models.ensure(models.SHAPES["small"], self.args.cache)
        big = models.ensure(models.SHAPES[self.args.model], self.args.cache)
        for n in range(self.args.rounds):
            self.busy_shares.append(busy_share())
            steps: list[Callable[[], None]] = [lambda: self.warm(small)]
            if (missing := why_not()) is None:
                steps += [lambda: self.cold(big, drops=False), lambda: self.cold(big, drops=True)]
                steps += [lambda: self.load_modes(big)] if n < self.args.mode_rounds else []
            elif not n:
                print(f"  no FUSE mount: {missing}", file=sys.stderr)
            for step in steps[:: 1 if n % 2 == 0 else -1]:
                step()

    def add(self, name: str, seconds: float) -> None:
        self.measured.setdefault(name, []).append(seconds)
        print(f"  {name:28} {seconds:8.3f} s", file=sys.stderr, flush=True)

    # --- (a) and (b) ----------------------------------------------------------------------------------------------

    def mount(self, model: Path, drops: bool) -> "Mounted":
        bytes_per_s = self.args.mb_per_s * 1e6 if self.args.mb_per_s else None
        return Mounted(model, Mount(self.args.latency_ms / 1e3, bytes_per_s, drops))

    def cold(self, model: Path, drops: bool) -> None:
        limit = None
        if not drops:
            reads = []
            for n in self.args.readers:
                with self.mount(model, drops) as path:
                    reads.append(Limit(plain_read([path], n), n))
            limit = min(reads, key=lambda read: read.seconds)
            self.add("plain_read", limit.seconds)
        name = "worker_drops" if drops else "worker"
        with self.mount(model, drops) as path:
            start = worker_start(path)
            read = served_bytes(path.parent) / path.stat().st_size
        self.pictures[name] = picture(start, model.stat().st_size, limit)
        self.add(name, start.first_answer_s)
        self.measured.setdefault(f"{name}_bytes_ratio", []).append(read)

    def load_modes(self, model: Path) -> None:
        for mode in MODES:
            with self.mount(model, drops=False) as path:
                self.add(f"load_{mode}", bare_seconds(path, mode)[0])

    # --- (c) ------------------------------------------------------------------------------------------------------

    def warm(self, model: Path) -> None:
        for _ in range(self.args.warm_rounds):
            plain_read([model], 2)
            whole_s, native_s = bare_seconds(model, "auto")
            self.add("warm_bare", whole_s)
            self.add("warm_bare_native", native_s)
            start = worker_start(model)
            self.pictures["warm"] = picture(start, model.stat().st_size)
            self.add("warm_worker", start.ready_s)
            if self.args.llama_server:
                port = free_port()
                command = [*shlex.split(self.args.llama_server), "-m", str(model), "--host", "127.0.0.1"]
                command += ["--port", str(port), "-np", "1", "-c", str(N_CTX)]
                with tempfile.NamedTemporaryFile(prefix="bench-cold-", suffix=".log") as log:
                    begun = time.perf_counter()
                    with serving(command, port, "/health", Path(log.name), poll_s=POLL_S):
                        self.add("warm_llama_server", time.perf_counter() - begun)

    # --- the report -----------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        found = {f"{name}_s": median(values) for name, values in self.measured.items() if "ratio" not in name}
        found |= {name: median(values) for name, values in self.measured.items() if "ratio" in name}
        if "worker" in self.measured:
            found["cold_ratio_fuse_drops"] = self.over("worker_drops", "plain_read", lambda a, b: a / b)
            found["cold_ratio_fuse"] = self.over("worker", "plain_read", lambda a, b: a / b)
        if "load_mmap" in self.measured:
            best = min(median(self.measured[f"load_{mode}"]) for mode in MODES)
            found["cold_speedup_best_mode"] = best / median(self.measured["worker"])
        if "warm_llama_server" in self.measured:
            found["warm_over_llama_server_s"] = self.over("warm_worker", "warm_llama_server", lambda a, b: a - b)
        found["warm_over_bare_native_s"] = self.over("warm_worker", "warm_bare_native", lambda a, b: a - b)
        found["warm_over_bare_s"] = self.over("warm_worker", "warm_bare", lambda a, b: a - b)
        return found

    def over(self, name: str, base: str, by: Callable[[float, float], float]) -> float:
        """Return the median of each round's own comparison of two starts, because the machine drifts."""
        return median(by(a, b) for a, b in zip(self.measured[name], self.measured[base], strict=True))

    def save(self) -> str:
        lines = [f"{name}: {value}" for name, value in machine().items()]
        lines += [f"latency: {self.args.latency_ms} ms a read, cap: {self.args.mb_per_s or 'none'} MB/s"]
        lines += [f"in use by others: {share:.0%} of the processor" for share in self.busy_shares]
        for name, drawn in self.pictures.items():
            lines += ["", f"{name}:", drawn]
        lines += ["", *(f"{name} {value:.3f}" for name, value in self.figures().items())]
        RESULTS.mkdir(parents=True, exist_ok=True)
        written = {"machine": machine(), "figures": self.figures(), "measured": self.measured}
        (RESULTS / f"{self.args.name}.json").write_text(json.dumps(written, indent=1) + "\n")
        (RESULTS / f"{self.args.name}.txt").write_text("\n".join(lines) + "\n")
        return "\n".join(lines)


class Mounted:
    """The model's folder on a slow mount without cached pages, and the model's path there."""

    def __init__(self, model: Path, mount: Mount) -> None:
        self._model = model
        self._mount = mount

    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-cold-")
        self._context = mounted(self._model.parent, Path(self._folder.name), self._mount)
        return self._context.__enter__() / self._model.name

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)
        self._folder.cleanup()


def bare_seconds(path: Path, mode: str) -> tuple[float, float]:
    """Return the seconds from the start of the process to its first decode, and those in llama.cpp alone."""
    command = [sys.executable, "-m", "bench.bare", str(path), mode, str(N_CTX), str(os.cpu_count())]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"the bare load ended with {process.returncode}")
    return seconds, json.loads(line)["native_s"]


def worker_start(model: Path) -> MeasuredStart:
    settings = {"MODEL": str(model), "N_CTX": str(N_CTX), "N_PARALLEL": "1"}
    return measure_start(settings, words.prompt(8, "cold"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cold", description=__doc__)
    parser.add_argument("--model", default="1b", choices=models.SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mode-rounds", type=int, default=1, help="of llama.cpp's own load modes, which take a minute")
    parser.add_argument("--warm-rounds", type=int, default=3, help="warm starts in each round")
    parser.add_argument("--readers", type=lambda text: [int(n) for n in text.split(",")], default=READERS)
    parser.add_argument("--latency-ms", type=float, default=3.0)
    parser.add_argument("--mb-per-s", type=float, help="cap of the mount; default: none")
    parser.add_argument("--llama-server", help="its command, to compare the warm start with")
    parser.add_argument("--name", default="cold", help="of the files in bench/results")
    parser.add_argument("--cache", type=Path, default=models.CACHE)
    bench = Bench(parser.parse_args())
    bench.run()
    print(bench.save())


if __name__ == "__main__":
    main()

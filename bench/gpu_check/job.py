"""One part's job: what it is given, the worker it measures, and the memory in use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.gpu_check.card import read_cards
from bench.gpu_check.profile import CARD, CPU, Profile
from bench.process import serving
from worker_gguf.worker_process import fetch_json, free_port

__all__ = ["MIB", "Job", "Served", "engine_of", "within"]

MIB = 1 << 20
GOAL_SHARE, GOAL_MIB = 0.05, 100.0
_ENGINE = b"worker_gguf.engine_process"


@dataclass(frozen=True, slots=True)
class Served:
    """A worker that is ready."""

    pid: int
    url: str

    def health(self) -> dict[str, Any]:
        return fetch_json(f"{self.url}/health")

    def ask(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Send a request and return its answer. Raises ProcessFailed."""
        return fetch_json(f"{self.url}{path}", body)


@dataclass(frozen=True)
class Job:
    """`models` are the files of `dense` and `experts`, as far as they exist. `work` is the folder for logs."""

    part: str
    on_card: bool
    models: dict[str, str]
    work: str
    budget_s: float
    llama_server: str | None = None

    @classmethod
    def read(cls, text: str) -> Job:
        return cls(**json.loads(text))

    @cached_property
    def profile(self) -> Profile:
        return CARD if self.on_card else CPU

    def model(self, kind: str) -> Path:
        return Path(self.models[kind])

    def used_mib(self, pid: int) -> float:
        """Return the memory in use: of all cards, or on the processor of the process `pid`."""
        if self.on_card:
            return read_cards().used_mib
        status = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    @contextmanager
    def worker(self, **settings: str) -> Iterator[Served]:
        """Run a worker over HTTP while the block runs. Raises RuntimeError with its last lines if it does not start."""
        port = free_port()
        own = {"MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "info"}
        log = Path(self.work) / f"{self.part}-worker.log"
        command = [sys.executable, "-m", "worker_gguf.cli", "serve"]
        with serving(command, port, "/ping", log, own | dict(self.profile.settings) | settings) as pid:
            yield Served(pid, f"http://127.0.0.1:{port}")


def engine_of(worker_pid: int) -> int | None:
    """Return the engine process of a worker, or None while it has none."""
    for tasks in Path(f"/proc/{worker_pid}/task").glob("*/children"):  # each thread lists its own children
        for pid in tasks.read_text().split():
            try:
                if _ENGINE in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
            except OSError:
                continue  # it has just ended
    return None


def within(planned_mib: float, used_mib: float) -> bool:
    """Return whether the difference is within 5 % of the used memory, or 100 MiB."""
    return abs(planned_mib - used_mib) <= max(GOAL_SHARE * used_mib, GOAL_MIB)

"""Real worker processes on one volume, and checks of the volume after they have ended."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fake_hub import FakeHub

__all__ = ["FAST", "Swarm"]

REPO = "org/repo"
FILE = "m-Q4_K_M.gguf"
FAST: dict[str, float] = {
    "n_connections": 4, "piece_bytes": 2**20, "heartbeat_s": 0.2, "takeover_s": 1.0, "poll_s": 0.05, "stall_s": 5.0,
}  # fmt: skip


@dataclass(slots=True)
class Swarm:
    """Workers that all want the same file of the hub in the same cache."""

    hub: FakeHub
    cache: Path
    content: bytes
    tuning: dict[str, float] = field(default_factory=lambda: FAST)
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub.repo(REPO, {FILE: self.content})

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> Path:
        return self.cache / f"models--{REPO.replace('/', '--')}" / "blobs" / self.sha256

    @property
    def lease(self) -> Path:
        return self.cache / ".locks" / "worker-gguf" / "lease" / self.sha256

    def start(self, n_workers: int = 1) -> None:
        given = {"ref": f"{REPO}:Q4_K_M", "cache": str(self.cache), "endpoint": self.hub.url, "tuning": self.tuning}
        env = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}
        for _ in range(n_workers):
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.store.fetcher", json.dumps(given)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
            self.workers.append(worker)

    def kill(self, worker: subprocess.Popen[str]) -> None:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        self.workers.remove(worker)

    def leader(self, timeout_s: float = 20.0) -> subprocess.Popen[str]:
        """Return the worker that holds the lease."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                pid = json.loads(self.lease.read_text())["pid"]
            except (OSError, ValueError):
                pid = None
            if found := [worker for worker in self.workers if worker.pid == pid]:
                return found[0]
            time.sleep(0.01)
        raise TimeoutError("nobody leads")

    def wait_served(self, n_bytes: int, timeout_s: float = 60.0) -> None:
        until = time.monotonic() + timeout_s
        while self.hub.bytes_served < n_bytes:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.hub.bytes_served} of {n_bytes} bytes served")
            time.sleep(0.01)

    def finish(self, timeout_s: float = 120.0) -> None:
        """Wait for all; raise what is not as it must be."""
        for worker in self.workers:
            out, said = worker.communicate(timeout=timeout_s)
            assert worker.returncode == 0, said
            assert Path(out.strip()).resolve() == self.blob.resolve(), (out, said)
        self.workers.clear()
        self.check()

    def check(self) -> None:
        """Check that the file is complete, there once and verified, and that nothing else is left."""
        assert [path.name for path in self.blob.parent.iterdir()] == [self.sha256]
        assert hashlib.sha256(self.blob.read_bytes()).hexdigest() == self.sha256
        left = [path for path in (self.cache / ".locks").rglob("*") if path.is_file()]
        assert left == [], left
        shown = list(self.cache.rglob("*.gguf"))
        assert len(shown) == 1
        assert shown[0].resolve() == self.blob.resolve()

    @property
    def ratio(self) -> float:
        return self.hub.bytes_served / len(self.content)


@contextmanager
def swarm(cache: Path, size_bytes: int, bytes_per_s: float, tuning: dict[str, float] | None = None) -> Iterator[Swarm]:
    """Serve random bytes over a line of a known width; leave no process behind."""
    with FakeHub() as hub:
        hub.bytes_per_s = bytes_per_s
        running = Swarm(hub, cache, b"GGUF" + random.randbytes(size_bytes - 4), FAST if tuning is None else tuning)
        try:
            yield running
        finally:
            for worker in list(running.workers):
                running.kill(worker)

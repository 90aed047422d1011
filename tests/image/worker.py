"""A worker in a container of the built image, started as the platform starts it, with requests over the network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.image.buildah import Config, Container
from worker_gguf.embedded import Prompt

__all__ = ["Worker", "ask", "chat", "chat_body", "free_port", "serving"]

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.005
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Worker:
    """`started_s` is when buildah was told to start it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, started_s: float) -> None:
        self._process = process
        self._log = log
        self._started_s = started_s
        self.url = f"http://127.0.0.1:{port}"

    def first_answers(self, until: int) -> dict[int, float]:
        """Ask /ping until it says `until`; when each status was first seen, in seconds from the container's start.

        That is the start of its first process, the entry point, which becomes the worker: what buildah does before
        (0.3 s) is not the image's.
        """
        seen: dict[int, float] = {}
        while until not in seen:
            self.check_alive()
            if (status := self._ping()) is not None:
                seen.setdefault(status, time.clock_gettime(time.CLOCK_BOOTTIME))
            time.sleep(_POLL_S)
        started_s = _start_of(self.pid())
        return {status: at_s - started_s for status, at_s in seen.items()}

    def check_alive(self) -> None:
        if self._process.poll() is not None or time.monotonic() - self._started_s > _START_TIMEOUT_S:
            raise SystemExit(f"The worker ended or is not ready in time; its last lines:\n{self.log()[-3000:]}")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def pid(self) -> int:
        """Return the process of the worker, among the shells and buildah processes around it."""
        return next(pid for pid in _descendants(self._process.pid) if b"worker-gguf" in _command(pid))

    def uid(self) -> int:
        status = Path(f"/proc/{self.pid()}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:")))

    def stop(self) -> int:
        """SIGTERM to the worker, as the platform sends it; the exit code that buildah passes on."""
        with contextlib.suppress(StopIteration, ProcessLookupError):
            os.kill(self.pid(), signal.SIGTERM)
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in [*_descendants(self._process.pid), self._process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return self._process.wait()

    def _ping(self) -> int | None:
        try:
            with _DIRECT.open(f"{self.url}/ping", timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


@contextlib.contextmanager
def serving(
    container: Container, config: Config, log: Path, volumes: Sequence[str] = (), **environment: str
) -> Iterator[Worker]:
    """Start the image's own command; the worker is stopped afterwards."""
    port = free_port()
    own = {"HOST": "127.0.0.1", "PORT": str(port), "N_THREADS": "1", **environment}
    command = container.command(config.command, own, volumes)
    with log.open("wb") as file:
        started_s = time.monotonic()
        process = subprocess.Popen(command, env=container.buildah.environment, stdout=file, stderr=file)
    worker = Worker(process, port, log, started_s)
    try:
        yield worker
    finally:
        if process.poll() is None:
            worker.stop()


def chat_body(prompt: Prompt) -> dict[str, Any]:
    return {"messages": list(prompt.messages), "temperature": 0, "max_tokens": prompt.max_tokens}


def chat(url: str, prompt: Prompt) -> str:
    """Return the worker's answer over HTTP."""
    answer: str = ask(f"{url}/v1/chat/completions", chat_body(prompt))["choices"][0]["message"]["content"]
    return answer


def ask(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with _DIRECT.open(request, timeout=60) as reply:
        said: dict[str, Any] = json.loads(reply.read())
        return said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(pid: int) -> list[int]:
    """Every process below one, the deepest first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    level = children.get(pid, [])
    while level:
        found = [*level, *found]
        level = [child for parent in level for child in children.get(parent, [])]
    return found


def _start_of(pid: int) -> float:
    """Return when a process was started, in seconds since the machine's start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words[:2]) if words[0].endswith(b"python") else b""
    return b""

"""Nginx in front of real workers with the embedded model: a stand-in for a load balancer.

`python -m tests.e2e.balancer` restarts the workers in turn, under load, and says what became of every request.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from worker_gguf.embedded import Prompt, published_prompts
from worker_gguf.worker_process import free_port

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
TIMEOUT_S = 120

# A request is handed to the next worker when its answer has not begun: the worker is gone, drains, loads or is full.
# A POST is only because of `non_idempotent`; to generate twice costs time and changes nothing. `max_fails=0`: a worker
# that says 429 or 503 is well, and a second later it may take requests again.
CONFIG = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format tries '$request_method $status $upstream_status';
    access_log {folder}/access.log tries;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 30m;
    upstream workers {{
{servers}
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 2s;
            proxy_read_timeout 330s;
            proxy_next_upstream {next};
        }}
    }}
}}
"""
NEXT = "error timeout http_503 http_429 non_idempotent"

SMALL = {"N_THREADS": "1", "N_CTX": "1024", "N_PARALLEL": "4", "MAX_QUEUE": "4"}
DRAIN = {"DRAIN_GRACE_S": "0.3", "DRAIN_TIMEOUT_S": "60"}


class RunningWorker:
    """A worker in a process of its own; its port stays the same over restarts."""

    def __init__(self, name: str, folder: Path, **own: str) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"worker-{name}.log"
        self._own = {"MODE": "http", "HOST": "127.0.0.1", "PORT": str(self.port), "RUNPOD_POD_ID": name}
        self._own |= SMALL | DRAIN | own
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "worker_gguf"]
            self._process = subprocess.Popen(command, env={**os.environ, **self._own}, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        poll(lambda: self._ping() == 200, self.log)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(TIMEOUT_S)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=10, trust_env=False).json()
        return found

    def metric(self, line: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).text
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _ping(self) -> int | None:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ping", timeout=10, trust_env=False).status_code
        return None


@dataclass
class Balanced:
    """The balancer's address, its workers, and how many tries each request took."""

    url: str
    workers: list[RunningWorker]
    folder: Path

    def tries(self) -> Counter[str]:
        """Requests by what the workers said in turn, such as `503, 200`."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return Counter(line.split(" ", 2)[2] for line in lines if line.startswith("POST"))

    def n_busy(self) -> int:
        return sum(worker.health()["slots"]["busy"] for worker in self.workers)


@contextlib.contextmanager
def balanced(folder: Path, n_workers: int = 2, *, next_upstream: str = NEXT, **own: str) -> Iterator[Balanced]:
    assert NGINX is not None
    workers = [RunningWorker(chr(ord("a") + i), folder, **own) for i in range(n_workers)]
    port = free_port()
    servers = "\n".join(f"        server 127.0.0.1:{worker.port} max_fails=0;" for worker in workers)
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, servers=servers, next=next_upstream))
    nginx: subprocess.Popen[bytes] | None = None
    try:
        for worker in workers:
            worker.start()
        command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        with (folder / "nginx.log").open("wb") as log:
            nginx = subprocess.Popen(command, stdout=log, stderr=log)
        for worker in workers:
            worker.wait_ready()
        yield Balanced(f"http://127.0.0.1:{port}", workers, folder)
    finally:
        for worker in workers:
            worker.kill()
        if nginx is not None:
            nginx.terminate()
            nginx.wait(10)


@dataclass
class Load:
    """Clients that ask one after another until told to stop, without a retry of their own."""

    url: str
    n_clients: int = 6
    whole: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prompt = max((p for p in published_prompts() if not p.tools), key=lambda prompt: len(prompt.expected))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(self.n_clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    @property
    def n_whole(self) -> int:
        return sum(self.whole.values())

    def _run(self, number: int) -> None:
        http = openai.DefaultHttpxClient(trust_env=False)
        with openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S, http_client=http
        ) as client:
            while not self._stop.is_set():
                kind = "streamed" if number % 2 else "plain"
                try:
                    answer = _stream(client, self._prompt) if number % 2 else _ask(client, self._prompt)
                except (openai.OpenAIError, httpx.HTTPError) as error:
                    self.lost.append(f"{kind}: {type(error).__name__}: {error}")
                    continue
                if answer == self._prompt.expected:
                    self.whole[kind] += 1
                else:
                    self.lost.append(f"{kind}: a wrong answer of {len(answer)} characters")


def _ask(client: openai.OpenAI, prompt: Prompt) -> str:
    answer = client.chat.completions.create(**_body(prompt))
    return answer.choices[0].message.content or ""


def _stream(client: openai.OpenAI, prompt: Prompt) -> str:
    with client.chat.completions.create(**_body(prompt), stream=True) as chunks:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def _body(prompt: Prompt) -> Any:
    body = {"messages": list(prompt.messages), "temperature": 0, "max_tokens": prompt.max_tokens}
    return {"model": "embedded", **body}


def roll(running: Balanced, load: Load) -> None:
    """Stop each worker and start it again, one after the other, some answers apart."""
    for worker in running.workers:
        n_before = load.n_whole
        code = worker.stop()
        assert code == 0, worker.log.read_text()
        worker.start()
        worker.wait_ready()
        poll(lambda: load.n_whole > n_before or bool(load.lost), worker.log)  # noqa: B023


def poll(is_so: Any, log: Path, timeout_s: float = TIMEOUT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.balancer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often every worker is restarted")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--next", default=NEXT, help="nginx's proxy_next_upstream")
    given = parser.parse_args()
    if NGINX is None:
        print("nginx is not installed: apt-get install nginx", file=sys.stderr)
        return 2
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with balanced(Path(folder), next_upstream=given.next) as running, Load(running.url, given.clients) as load:
            for _ in range(given.rounds):
                roll(running, load)
        tries = running.tries()
    print(
        f"{given.rounds * 2} restarts in {time.monotonic() - started_s:.0f} s: {load.n_whole} right and whole "
        f"({load.whole['streamed']} streamed, {load.whole['plain']} plain), {len(load.lost)} lost"
    )
    print("what the workers said, in turn:", dict(tries.most_common()))
    for line in load.lost[:10]:
        print(f"  {line}")
    return 1 if load.lost else 0


if __name__ == "__main__":
    sys.exit(main())

"""The servers under measurement: the worker and, if there is a command for one, a peer beside it."""

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.connection import Connection
from bench.load import STREAMED, Answer, post, stream
from bench.models import CACHE
from bench.process import busy_share, fill_command, serving
from bench.serving.findings import Findings
from worker_gguf.worker_process import SERVE, free_port


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `prefix` begins the names of its figures; it is empty for the worker."""

    prefix: str
    url: str  # with /v1
    model: str
    pid: int

    def request(self, prompt: str | list[dict[str, Any]], max_tokens: int, **options: object) -> bytes:
        """Return a request for a stream: a chat if the prompt is messages, else a completion."""
        path, name = ("/completions", "prompt") if isinstance(prompt, str) else ("/chat/completions", "messages")
        body = {"model": self.model, name: prompt, "max_tokens": max_tokens, **STREAMED, **options}
        return post(self.url, path, body)

    async def ask(self, connection: Connection, request: bytes) -> Answer:
        """Send a request for a stream. Raises RuntimeError if it gets no good answer."""
        answer = Answer()
        await stream(self.url, request, connection, answer)
        if answer.error or not answer.arrivals:
            raise RuntimeError(f"{self.prefix or 'worker'}: {answer.error or 'an answer without text'}")
        return answer


@dataclass(frozen=True, slots=True)
class Setup:
    """What the parts of a run share."""

    findings: Findings = field(default_factory=Findings)
    rounds: int = 3
    cache: Path = CACHE
    worker_env: Mapping[str, str] = field(default_factory=dict)
    peer_command: str | None = None
    peer_name: str = "peer"
    peer_ready: str = "/health"

    @classmethod
    def of(cls, args: argparse.Namespace, findings: Findings) -> "Setup":
        """Return the set-up of a command line with the options of `add_arguments`."""
        env = dict(pair.split("=", 1) for pair in args.worker_env)
        return cls(findings, args.rounds, args.cache, env, args.peer_command, args.peer_name, args.peer_ready)

    @contextmanager
    def worker(
        self, model: Path, n_parallel: int, n_ctx: int, env: Mapping[str, str] | None = None
    ) -> Iterator[Server]:
        """Run a worker while the block runs. `n_ctx` is the least context of one request, in tokens."""
        port = free_port()
        own = {"MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "MODEL": str(model), "LOG_LEVEL": "warning"}
        own |= {"N_PARALLEL": str(n_parallel), "N_CTX": str(_rounded(n_ctx)), **self.worker_env, **(env or {})}
        log = self.cache / f"worker-{port}.log"  # kept only if something fails
        with serving(SERVE, port, "/ping", log, own) as pid:
            yield _server("", port, pid)
        log.unlink()

    @contextmanager
    def peer(self, model: Path, n_parallel: int, n_ctx: int, options: str = "") -> Iterator[Server]:
        """Run the peer with further options while the block runs."""
        port = free_port()
        command = fill_command(f"{self.peer_command} {options}", model, port, n_parallel, _rounded(n_ctx))
        log = self.cache / f"peer-{port}.log"
        with serving(command, port, self.peer_ready, log) as pid:
            yield _server(f"{self.peer_name}_", port, pid)
        log.unlink()

    @contextmanager
    def servers(self, model: Path, n_parallel: int, n_ctx: int) -> Iterator[list[Server]]:
        """Run the worker and, if there is a command for one, the peer. Only one of them has requests at any time."""
        with ExitStack() as stack:
            running = [stack.enter_context(self.worker(model, n_parallel, n_ctx))]
            if self.peer_command:
                running.append(stack.enter_context(self.peer(model, n_parallel, n_ctx)))
            yield running

    def in_turn(self, servers: list[Server]) -> Iterator[tuple[int, Server]]:
        """Give each round's number and server. In every other round the order is reversed, so that a drift of the
        machine favours neither.
        """
        for n in range(self.rounds):
            for server in servers if n % 2 == 0 else servers[::-1]:
                yield n, server

    def note_other_load(self) -> None:
        share = busy_share()
        self.findings.busy_shares.append(share)
        if share > 0.05:
            print(f"  {share:.0%} of the processor is in use by others: expect bad figures", file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a set-up."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker-env", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    parser.add_argument("--peer-command", help="a server to start; {model} {port} {n_parallel} {n_ctx} {n_ctx_total}")
    parser.add_argument("--peer-name", default="peer")
    parser.add_argument("--peer-ready", default="/health", help="the path that answers 200 once the peer is ready")
    parser.add_argument("--cache", type=Path, default=CACHE)


def _rounded(n_ctx: int) -> int:
    """Round up to what llama.cpp allocates: servers that round by themselves differ in the direction."""
    return -(-n_ctx // 256) * 256


def _server(prefix: str, port: int, pid: int) -> Server:
    url = f"http://127.0.0.1:{port}/v1"
    with urllib.request.urlopen(f"{url}/models", timeout=30) as answer:
        return Server(prefix, url, json.load(answer)["data"][0]["id"], pid)

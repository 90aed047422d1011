"""A real uvicorn on loopback over a fake backend, for the tests of the HTTP front end."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.fake_backend import FakeBackend
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics

__all__ = ["CHAT", "KEY", "Served", "raw_post", "serving"]

CHAT = "/v1/chat/completions"
KEY = "sk-right"


@dataclass(frozen=True, slots=True)
class Served:
    backend: FakeBackend
    client: httpx.Client
    metrics: Metrics
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def loop_call(self, call: Callable[[], None]) -> None:
        """Run something on the server's loop, once there was a call."""
        assert self.backend.loop is not None
        self.backend.loop.call_soon_threadsafe(call)


@contextmanager
def serving(
    backend: FakeBackend | None = None,
    *,
    api_keys: tuple[str, ...] = (),
    max_body_bytes: int = 1_000_000,
    **more: Any,
) -> Iterator[Served]:
    backend = backend or FakeBackend()
    metrics = Metrics("test", known_ignored=["user"])
    app = create_app(backend, api_keys=api_keys, max_body_bytes=max_body_bytes, metrics=metrics, **more)
    with (
        ServerThread(app, bind("127.0.0.1", 0)) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client,
    ):
        yield Served(backend, client, metrics, server.port)


def raw_post(port: int, body: object, path: str = CHAT) -> socket.socket:
    """Send a request and leave its answer unread."""
    content = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return sock

"""Tests of answers to images against llama.cpp's own server, with tiny random models and projectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.process import serving
from tests.image_files import png
from tests.image_reference import Piece, text_of
from tests.llama.test_images import N, Seeing, asked, request_of
from tests.llama.test_projector import KINDS
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker
from worker_gguf.worker_process import free_port

pytestmark = pytest.mark.real

MARKER = "<media>"
# In the answers to these, no two tokens are nearly as likely.
PROMPTS: list[list[Piece]] = [
    [[70, 71, 72], png(1), [80, 81]],
    [png(3, 90, 30), [60, 61, 62]],
    [[70], png(3, 40, 40), [60, 63], png(4, 90, 30), png(3, 40, 40), [80]],
]


class Peer:
    """llama-server with a projector, asked by texts with images in them."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def greedy(self, pieces: Sequence[Piece], n: int) -> list[int]:
        text = "".join(MARKER if isinstance(piece, bytes) else text_of(piece).decode() for piece in pieces)
        images = [base64.b64encode(piece).decode() for piece in pieces if isinstance(piece, bytes)]
        prompt = {"prompt_string": text, "multimodal_data": images}
        body = {"prompt": prompt, "n_predict": n, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        reply = self._client.post("/completion", json=body)
        reply.raise_for_status()
        tokens: list[int] = reply.json()["tokens"]
        return tokens

    def chat(self, messages: list[Any]) -> tuple[str, int]:
        """Return the greedy answer, and the number of tokens of its prompt."""
        body = {"messages": messages, "max_tokens": N, "temperature": 0, "cache_prompt": False}
        reply = self._client.post("/v1/chat/completions", json=body)
        reply.raise_for_status()
        answer = reply.json()
        content: str = answer["choices"][0]["message"]["content"]
        # llama-server leaves out a character that the end of the answer cuts.
        return content.rstrip("\N{REPLACEMENT CHARACTER}"), answer["usage"]["prompt_tokens"]


@pytest.fixture(scope="module", params=list(KINDS))
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeing]:
    made = Seeing(request.param, tmp_path_factory.mktemp("seeing"))
    yield made
    made.engine.stop()


@pytest.fixture(scope="module")
def peer(seeing: Seeing, peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with serve(seeing, peer_command, tmp_path_factory.mktemp("peer") / "log") as asking:
        yield asking


@contextmanager
def serve(seeing: Seeing, command: Path, log: Path, *more: str) -> Iterator[Peer]:
    port = free_port()
    options = ["-np", "1", "-c", "256", "-t", "2", "--no-repack", "--swa-full", "--no-warmup"]
    options += ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
    files = ["-m", str(seeing.path), "--mmproj", str(seeing.mmproj)]
    arguments = [str(command), *files, "--host", "127.0.0.1", "--port", str(port), *options]
    with serving([*arguments, *more], port, "/health", log, {"LLAMA_MEDIA_MARKER": MARKER}):
        asking = Peer(f"http://127.0.0.1:{port}")
        yield asking
        asking.close()


@pytest.mark.parametrize("pieces", PROMPTS, ids=["one image", "an image first", "several images"])
def test_greedy_answers_to_images_equal_llama_server(seeing: Seeing, peer: Peer, pieces: list[Piece]) -> None:
    ((tokens, _),) = asked(seeing.engine, request_of("alone", pieces))
    assert tokens == peer.greedy(pieces, N)


def test_beside_8_text_requests_the_answers_equal_llama_server(seeing: Seeing, peer: Peer) -> None:
    others = [request_of(f"text {i}", [[9 * i, 40, 50 + i] * 7], 30) for i in range(8)]
    images = [request_of(f"image {i}", pieces, cache_prompt=False) for i, pieces in enumerate(PROMPTS)]
    answers = asked(seeing.engine, *others[:4], *images, *others[4:])
    assert [tokens for tokens, _ in answers[4:7]] == [peer.greedy(pieces, N) for pieces in PROMPTS]


def test_with_an_adapter_the_answers_to_images_equal_llama_server(tmp_path: Path, peer_command: Path) -> None:
    seeing = Seeing("mlp", tmp_path, is_adapted=True)
    adapted = [request_of(f"adapted {i}", pieces, adapters=((0, 1.0),)) for i, pieces in enumerate(PROMPTS)]
    plain = [request_of(f"plain {i}", pieces) for i, pieces in enumerate(PROMPTS)]
    answers = [tokens for tokens, _ in asked(seeing.engine, *adapted, *plain)]
    seeing.engine.stop()
    with serve(seeing, peer_command, tmp_path / "log", "--lora", str(seeing.lora)) as peer:
        assert answers[:3] == [peer.greedy(pieces, N) for pieces in PROMPTS]
    with serve(seeing, peer_command, tmp_path / "log") as peer:
        assert answers[3:] == [peer.greedy(pieces, N) for pieces in PROMPTS]
    assert answers[:3] != answers[3:]


def shown(image: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(image).decode()}}


def text(what: str) -> dict[str, str]:
    return {"type": "text", "text": what}


CHATS: list[list[Any]] = [
    [{"role": "user", "content": [text("What is this?"), shown(png(1))]}],
    [{"role": "user", "content": [shown(png(3, 90, 30)), text("a"), text("b"), shown(png(1)), text("c")]}],
    [
        {"role": "user", "content": [shown(png(4))]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And?"},
    ],
]


@contextmanager
def worker_on(seeing: Seeing) -> Iterator[Peer]:
    """Serve the model of an engine with a worker."""
    settings = Settings(
        model=str(seeing.path),
        mmproj=str(seeing.mmproj),
        n_ctx=256,
        n_parallel=1,
        n_threads=1,
        flash_attn="off",
        type_k="f32",
        type_v="f32",
    )
    metrics = Metrics("test")
    worker = Worker(settings, metrics)
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 20, metrics=metrics)
    try:
        with ServerThread(app, bind("127.0.0.1", 0)) as server:
            asyncio.run(worker.wait_ready())
            asking = Peer(server.url)
            yield asking
            asking.close()
    finally:
        worker.stop()


def test_chats_with_images_over_http_equal_llama_server(seeing: Seeing, peer: Peer) -> None:
    with worker_on(seeing) as worker:
        answers = [worker.chat(messages) for messages in CHATS]
    assert answers == [peer.chat(messages) for messages in CHATS]
    assert len(set(answers)) == len(CHATS)

"""Vectors of all-MiniLM-L6-v2 over HTTP, against the bare library and the peer: texts per second.

`embed_ratio` is the rate over HTTP, with 64 requests of one text at once, over that of the library's batched encode
with the best size of a batch. `embed_over_llama_server` is the rate over the peer's.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import minilm
from bench.connection import Connection
from bench.load import address, post, run_loop
from bench.serving.servers import Server, Setup

VERSION = 1
# Words of the vocabulary of BERT, so that a text has about as many tokens as words.
WORDS = (
    "the a cat dog house river sees finds small large old new green red table book reads writes under over city road "
    "train water fire stone bread milk night day morning evening song story child mother father friend quickly slowly"
).split()


@dataclass(frozen=True, slots=True)
class Sizes:
    at_once: int = 64
    texts: int = 1500
    words: tuple[int, int] = (6, 40)


def ensure(folder: Path, cache: Path) -> Path:
    """Return the model's GGUF file, written from its original files where it is missing."""
    path = cache / f"minilm-v{VERSION}.gguf"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        minilm.write(folder, path)
    return path


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    texts = made_up(sizes)
    bare = bare_rate(model, texts)
    setup.findings.add("embed_bare_texts_per_s", bare)
    with setup.worker(model, sizes.at_once, 512) as worker:
        load(worker, texts[: sizes.at_once], sizes)
        for _ in range(setup.rounds):
            bare = bare_rate(model, texts)
            rate = load(worker, texts, sizes)
            setup.findings.add("embed_bare_texts_per_s", bare)
            setup.findings.add("embed_texts_per_s", rate)
            setup.findings.add("embed_ratio", rate / bare)
    if setup.peer_command:
        _compare(setup, model, texts, sizes)


def _compare(setup: Setup, model: Path, texts: list[str], sizes: Sizes) -> None:
    with (
        setup.worker(model, sizes.at_once, 512) as worker,
        setup.peer(model, sizes.at_once, 512, "--embedding -b 2048 -ub 2048") as peer,
    ):
        servers = [worker, peer]
        rates: dict[str, list[float]] = {server.prefix: [] for server in servers}
        for server in servers:
            load(server, texts[: sizes.at_once], sizes)
        for _, server in setup.in_turn(servers):
            rates[server.prefix].append(load(server, texts, sizes))
        for ours, theirs in zip(rates[worker.prefix], rates[peer.prefix], strict=True):
            setup.findings.add(f"{peer.prefix}embed_texts_per_s", theirs)
            setup.findings.add("embed_over_llama_server", ours / theirs)


def made_up(sizes: Sizes) -> list[str]:
    rng = random.Random("texts")
    return [" ".join(rng.choices(WORDS, k=rng.randint(*sizes.words))) for _ in range(sizes.texts)]


def bare_rate(model: Path, texts: list[str]) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(texts))
        file.flush()
        command = [sys.executable, "-m", "bench.routes.bare_embed", str(model), file.name, str(os.cpu_count() or 1)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate: float = json.loads(printed)["texts_per_s"]
    return rate


def load(server: Server, texts: list[str], sizes: Sizes) -> float:
    """Ask for the vector of each text, one a request, and return the texts per second."""
    return run_loop(_load(server, texts, sizes))


async def _load(server: Server, texts: list[str], sizes: Sizes) -> float:
    host, port, _ = address(server.url)
    requests = iter(
        [
            post(server.url, "/embeddings", {"model": server.model, "input": text, "encoding_format": "base64"})
            for text in texts
        ]
    )

    async def ask(connection: Connection) -> None:
        for request in requests:
            body = bytearray()
            status = await connection.exchange(host, port, request, body.extend)
            if status != 200:
                raise RuntimeError(f"status {status}: {bytes(body[:300])!r}")

    connections = [Connection() for _ in range(sizes.at_once)]
    begun = time.perf_counter()
    try:
        await asyncio.gather(*map(ask, connections))
    finally:
        for connection in connections:
            connection.close()
    return len(texts) / (time.perf_counter() - begun)

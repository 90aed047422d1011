"""Real models and llama.cpp's own server, where `make models` and `make llama-server` have put them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from bench.process import serving
from tests.real.peer import Peer
from tools.cache import MODELS, llama_server_path
from worker_gguf.settings import Settings
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.open_model import open_model
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import ModelRef, UsageMark
from worker_gguf.store.resolve import locate
from worker_gguf.worker_process import WorkerProcess, free_port

N_PARALLEL = 16
N_CTX = 1024


def found(name: str) -> Path:
    path = MODELS / name
    if not path.exists():
        pytest.skip(f"{name} is not here: run `make models`")
    return path


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return found("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    return found("gemma-3-270m-q4_k_m.gguf")


def opened(path: Path, **settings: object) -> LoadedModel:
    values: dict[str, object] = {"model": str(path), "n_ctx": N_CTX, "n_parallel": N_PARALLEL, "n_threads": 2}
    start = Start(Settings(**{**values, **settings}))  # type: ignore[arg-type]
    local = locate(ModelRef.parse(str(path)), ())
    assert local is not None
    with ReadAhead(start) as ahead:
        return open_model(start, local, UsageMark(local.paths, start.settings.cache_dir()), ahead, EngineStart())


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Iterator[LoadedModel]:
    loaded = opened(smollm2_path)
    yield loaded
    loaded.stop()


@pytest.fixture(scope="session")
def gemma(gemma_path: Path) -> Iterator[LoadedModel]:
    loaded = opened(gemma_path, n_ctx=2048, n_parallel=4)
    yield loaded
    loaded.stop()


@pytest.fixture(scope="session")
def peer_command() -> Path:
    path = llama_server_path()
    if not path.exists():
        pytest.skip("llama-server is not built: run `make llama-server`")
    return path


@pytest.fixture(scope="session")
def smollm2_peer(smollm2_path: Path, peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    yield from serve_peer(peer_command, smollm2_path, tmp_path_factory.mktemp("peer"), N_CTX)


@pytest.fixture(scope="session")
def gemma_peer(gemma_path: Path, peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    yield from serve_peer(peer_command, gemma_path, tmp_path_factory.mktemp("peer"), 2048)


def serve_peer(command: Path, model: Path, folder: Path, n_ctx: int, *more: str) -> Iterator[Peer]:
    port = free_port()
    # The same as in the worker: weights in the order of the file, and a sliding window's memory kept in full. Without
    # --swa-full, the server computes the last tokens of a prompt in a batch of their own, which moves its numbers.
    options = ["-np", "1", "-c", str(n_ctx), "-t", "2", "--no-repack", "--swa-full", "--jinja", "--no-warmup"]
    arguments = [str(command), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *options, *more]
    with serving(arguments, port, "/health", folder / "log"):
        peer = Peer(f"http://127.0.0.1:{port}")
        yield peer
        peer.close()


@contextmanager
def worker_client(path: Path, **environment: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client, connected to a worker in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        worker = WorkerProcess({"MODEL": str(path), "MODE": "http", "N_THREADS": "2", **environment}, log)
        try:
            worker.wait_ready(0.05)
            http_client = openai.DefaultHttpxClient(trust_env=False)
            with openai.OpenAI(
                base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=120, http_client=http_client
            ) as client:
                yield client
        finally:
            worker.stop()


@pytest.fixture(autouse=True)
def nothing_runs_after(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("smollm2", "gemma"):
        if name in request.fixturenames:
            loaded: LoadedModel = request.getfixturevalue(name)
            asyncio.run(asyncio.wait_for(loaded.idle(), 60))

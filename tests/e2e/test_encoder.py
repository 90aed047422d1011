"""Tests of a worker with a model that generates no text: it starts, lists its abilities and refuses a chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.asking import ask
from tests.tiny_models import write_encoder
from worker_gguf.errors import UnsupportedParameter
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

COUNTS = ("/v1/messages/count_tokens", "/v1/chat/completions/input_tokens", "/apply-template")


async def check_unloading(worker: Worker, model: str) -> None:
    """Check that Ollama's clients may give back a model that does not generate, but not load it to generate."""
    answer = await ask(worker, "POST", "/api/generate", {"model": model, "keep_alive": 0})
    assert isinstance(answer, Answer)
    assert answer.body["done_reason"] == "unload"
    with pytest.raises(UnsupportedParameter, match="does not generate text"):
        await ask(worker, "POST", "/api/generate", {"model": model})


async def test_a_worker_on_an_encoder_is_ready_and_refuses_to_generate(tmp_path: Path) -> None:
    worker = Worker(Settings(model=str(write_encoder(tmp_path / "tiny-encoder.gguf"))), Metrics("test"))
    worker.start()
    try:
        await worker.wait_ready()
        listed = await ask(worker, "GET", "/v1/models")
        assert isinstance(listed, Answer)
        assert listed.body["data"][0]["meta"]["capabilities"] == ["embedding"]
        assert worker.health()["model"]["capabilities"] == ["embedding"]
        body = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
        for path in ("/v1/chat/completions", "/v1/completions"):
            with pytest.raises(UnsupportedParameter, match="does not generate text; it can do: embedding") as refused:
                await ask(worker, "POST", path, body)
            assert refused.value.param == "model"
        for path in COUNTS:
            with pytest.raises(UnsupportedParameter, match="does not generate text; it can do: embedding"):
                await ask(worker, "POST", path, {"messages": body["messages"]})
        with pytest.raises(UnsupportedParameter, match="does not generate text"):
            await ask(worker, "POST", "/v1/responses/input_tokens", {"input": "Hi"})
        tokens = await ask(worker, "POST", "/tokenize", {"content": "cat"})
        assert isinstance(tokens, Answer)
        await ask(worker, "POST", "/detokenize", tokens.body)
        await check_unloading(worker, "tiny-encoder")
    finally:
        worker.stop()


async def test_one_file_may_chat_and_make_vectors_in_one_worker() -> None:
    models = '[{"alias": "chat", "model": "embedded"}, {"alias": "vectors", "model": "embedded", "pooling": "last"}]'
    settings = Settings(models=models, models_preload=2, n_ctx=256, n_threads=1, max_tokens=4)
    worker = Worker(settings, Metrics("test"))
    worker.start()
    try:
        await worker.wait_ready()
        listed = await ask(worker, "GET", "/v1/models")
        assert isinstance(listed, Answer)
        assert {card["id"]: card["meta"]["capabilities"] for card in listed.body["data"]} == {
            "chat": ["completion"],
            "vectors": ["embedding"],
        }
        body = {"messages": [{"role": "user", "content": "Hi"}], "model": "chat"}
        answer = await ask(worker, "POST", "/v1/chat/completions", body)
        assert isinstance(answer, Answer)
        assert answer.body["usage"]["completion_tokens"] > 0
        with pytest.raises(UnsupportedParameter, match="does not generate text; it can do: embedding"):
            await ask(worker, "POST", "/v1/chat/completions", body | {"model": "vectors"})
        await check_unloading(worker, "vectors")
    finally:
        worker.stop()

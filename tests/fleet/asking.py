"""Requests of the tests: short ones, and one that runs until it is stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests import asking
from worker_gguf.service.request import Answer, Stream, close_events
from worker_gguf.worker import Worker


async def ask(worker: Worker, model: str | None, **changes: object) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0, **changes}
    if model is not None:
        body["model"] = model
    answer = await asking.ask(worker, "POST", "/v1/chat/completions", body)
    assert isinstance(answer, Answer)
    body_of_answer: dict[str, Any] = answer.body
    return body_of_answer


@asynccontextmanager
async def generating(worker: Worker, model: str) -> AsyncIterator[None]:
    """Keep the model generating inside this context."""
    body = {"model": model, "prompt": "Once", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    stream = await asking.ask(worker, "POST", "/v1/completions", body)
    assert isinstance(stream, Stream)
    await anext(aiter(stream.events))
    try:
        yield
    finally:
        await close_events(stream.events)


async def states(worker: Worker) -> dict[str, str]:
    answer = await asking.ask(worker, "GET", "/v1/models")
    assert isinstance(answer, Answer)
    return {model["id"]: model["status"]["value"] for model in answer.body["data"]}

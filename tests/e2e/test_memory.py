"""Tests of a full KV cache: there are fewer cells than the requests need together."""

from __future__ import annotations

import asyncio

import openai

from worker_gguf.embedded import published_prompts
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker


def test_an_overcommitted_memory_makes_the_youngest_wait_and_answers_everyone_right() -> None:
    story = max(published_prompts(), key=lambda prompt: len(prompt.expected))
    settings = Settings(model="embedded", n_parallel=4, n_ctx=512, n_cells=768, n_threads=1)
    metrics = Metrics("test")
    worker = Worker(settings, metrics)
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 20, metrics=metrics)

    async def one(client: openai.AsyncOpenAI) -> str | None:
        answer = await client.chat.completions.create(
            model="embedded",
            messages=list(story.messages),  # type: ignore[arg-type]
            temperature=0,
            max_tokens=story.max_tokens,
            extra_body={"cache_prompt": False},
        )
        return answer.choices[0].message.content

    async def scenario(url: str) -> list[str | None]:
        await worker.wait_ready()
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(one(client) for _ in range(4)))

    with ServerThread(app, bind("127.0.0.1", 0)) as server:
        answers = asyncio.run(scenario(server.url))
        held = worker.health()["memory"]
    worker.stop()
    assert answers == [story.expected] * 4
    assert held["cells"] == 768
    # Four whole stories would not have fitted side by side.
    assert 4 * story.max_tokens > 768

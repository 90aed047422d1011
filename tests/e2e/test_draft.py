"""Tests of a whole worker with DRAFT_MODEL set to a copy of its model, over HTTP."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import openai

from tests.waiting import wait_until
from worker_gguf.embedded import MODEL_PATH, published_prompts
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.worker import Worker


def test_published_answers_come_with_a_draft_model_and_again_after_a_crash(tmp_path: Path) -> None:
    draft = shutil.copy(MODEL_PATH, tmp_path / "draft.gguf")
    settings = Settings(draft_model=str(draft), n_parallel=2, n_ctx=1024, n_threads=1)
    prompts = [prompt for prompt in published_prompts() if not prompt.tools][:8]
    metrics = Metrics("test")
    worker = Worker(settings, metrics)
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 20, metrics=metrics)

    async def answers(url: str) -> list[str | None]:
        await worker.wait_ready()
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:

            async def one(at: int) -> str | None:
                prompt = prompts[at]
                answer = await client.chat.completions.create(
                    model="embedded",
                    messages=list(prompt.messages),  # type: ignore[arg-type]
                    temperature=0,
                    max_tokens=prompt.max_tokens,
                )
                return answer.choices[0].message.content

            return await asyncio.gather(*map(one, range(len(prompts))))

    try:
        with ServerThread(app, bind("127.0.0.1", 0)) as server:
            assert asyncio.run(answers(server.url)) == [prompt.expected for prompt in prompts]
            loaded = worker._host
            assert isinstance(loaded, LoadedModel)
            stats = loaded.stats
            n_drafted = stats.drafted_tokens
            assert 0.9 * n_drafted <= stats.drafted_right_tokens <= stats.guessed_right_tokens
            assert n_drafted > 0
            assert stats.draft_seconds > 0
            os.kill(loaded.engine._link.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            wait_until(lambda: (loaded.engine.n_deaths, loaded.engine.state) == (1, "running"), 60)
            assert asyncio.run(answers(server.url)) == [prompt.expected for prompt in prompts]
            assert stats.drafted_tokens > n_drafted
            assert worker.health()["plan"]["draft"]["n_parallel"] == 2
    finally:
        worker.stop()

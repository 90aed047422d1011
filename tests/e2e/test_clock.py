"""Tests under a clock that jumps: the time of day moves an hour ahead and back at every call."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest

from tests.e2e.conftest import Running
from worker_gguf.embedded import published_prompts
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import make_handler

PROMPT = next(prompt for prompt in published_prompts() if not prompt.tools)


@pytest.mark.usefixtures("all_slots_free")
def test_a_jumping_clock_ends_no_job_and_hangs_none(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.time()
    jumps = itertools.cycle((3600, -3600, 86400 * 400, -86400 * 400))
    monkeypatch.setattr(time, "time", lambda: now_s + next(jumps))
    chat = {"messages": list(PROMPT.messages), "temperature": 0, "max_tokens": PROMPT.max_tokens, "stream": True}

    async def run() -> str:
        handler = make_handler(running.worker, Metrics("test"), BatchLimits(4))
        return "".join([str(item) async for item in handler({"id": "job", "input": chat})])

    events = asyncio.run(asyncio.wait_for(run(), 60)).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    choices = [json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2]]
    assert "".join(choice[0]["delta"].get("content") or "" for choice in choices if choice) == PROMPT.expected

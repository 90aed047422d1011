"""Tests that each published prompt gets its published answer, through the model's own chat template."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import openai
import pytest
from msgspec.structs import replace

from tests.e2e.conftest import Running
from tests.threaded_link import engine_of
from worker_gguf.embedded import MODEL_PATH, Prompt, published_prompts
from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Delta
from worker_gguf.gguf import read_header
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner
from worker_gguf.template.chat_template import CHATML, ChatTemplate

PROMPTS = published_prompts()
PLAIN = [prompt for prompt in PROMPTS if not prompt.tools]
TOOLS = [prompt for prompt in PROMPTS if prompt.tools]


def named(prompt: Prompt) -> str:
    return prompt.name


def own_template() -> ChatTemplate:
    source = read_header(MODEL_PATH).chat_template
    assert source is not None
    return ChatTemplate(source, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def test_there_are_at_least_60_and_some_offer_tools() -> None:
    assert len(PROMPTS) >= 60
    assert TOOLS


@pytest.mark.parametrize("prompt", PLAIN, ids=named)
def test_chat_answers_as_published(client: openai.OpenAI, prompt: Prompt) -> None:
    answer = client.chat.completions.create(
        model="embedded",
        messages=list(prompt.messages),  # type: ignore[arg-type]
        temperature=0,
        max_tokens=prompt.max_tokens,
    )
    assert answer.choices[0].message.content == prompt.expected
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("prompt", TOOLS, ids=named)
def test_an_offered_tool_is_answered_as_published(client: openai.OpenAI, prompt: Prompt) -> None:
    """Tools are not honoured over the API yet, so the template's text goes in as a completion's prompt."""
    text = own_template().prompt(prompt.messages, tools=prompt.tools)
    answer = client.completions.create(
        model="embedded",
        prompt=text.removeprefix("<|begin_of_text|>"),
        temperature=0,
        max_tokens=prompt.max_tokens,
    )
    assert answer.choices[0].text == prompt.expected


@pytest.mark.usefixtures("all_slots_free")
def test_200_at_once_with_a_third_cancelled_answer_as_published(running: Running) -> None:
    """Cancelled at random moments, waiting or running, over HTTP; every other answer is the published one."""
    rng = random.Random(11)

    async def one(client: openai.AsyncOpenAI, i: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if i % 3 == 0:
            asyncio.get_running_loop().call_later(rng.random() * 4, task.cancel)
        prompt = PLAIN[i % len(PLAIN)]
        stream = await client.chat.completions.create(
            model="embedded",
            messages=list(prompt.messages),  # type: ignore[arg-type]
            temperature=0,
            max_tokens=prompt.max_tokens,
            stream=True,
        )
        assert isinstance(stream, openai.AsyncStream)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        assert text == prompt.expected, prompt.name

    async def scenario() -> None:
        url = f"{running.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
            ends = await asyncio.gather(*(one(client, i) for i in range(200)), return_exceptions=True)
        wrong = [end for end in ends if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError)]
        assert not wrong, wrong[0]
        cancelled = [i for i, end in enumerate(ends) if isinstance(end, asyncio.CancelledError)]
        assert len(cancelled) > 10
        assert all(i % 3 == 0 for i in cancelled)

    asyncio.run(scenario())


# --- what must make it fail -------------------------------------------------------------------------------------------


class Shifted(LlamaRunner):
    """Writes what is generated two positions too far on, as a worker with a wrong position would."""

    def run(self, batch: Batch) -> StepResult:
        drawn = {slot for slot, drawing in self._slots.items() if drawing.n_generated}
        shifted = (replace(c, start=c.start + 2) if c.slot in drawn else c for c in batch.chunks)
        return super().run(replace(batch, chunks=tuple(shifted)))


async def n_right(engine: Engine, model: Model, template: ChatTemplate, prompts: Sequence[Prompt]) -> int:
    async def deltas(request: GenerationRequest) -> AsyncIterator[str]:
        async for items in engine.submit(request):
            for event in items[0]:
                if isinstance(event, Delta):
                    yield event.text

    right = 0
    for i, prompt in enumerate(prompts):
        text = template.prompt(prompt.messages, tools=prompt.tools or None)
        tokens = model.vocabulary.tokenize(text, add_special=False, parse_special=True)
        request = GenerationRequest(
            str(i), tuple(tokens), SamplingParams(temperature=0), prompt.max_tokens, cache_prompt=False
        )
        right += "".join([delta async for delta in deltas(request)]) == prompt.expected
    return right


@pytest.mark.parametrize("wrong", ["nothing", "positions", "template"])
def test_a_wrong_template_or_a_wrong_position_fails_many(wrong: str) -> None:
    model = Model(MODEL_PATH, ModelParams())
    params = ContextParams(
        n_ctx=1024, n_parallel=1, n_cells=1024, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1, unified=True
    )
    special = model.vocabulary.special
    runner = (Shifted if wrong == "positions" else LlamaRunner)(model, Context(model, params), special)
    engine = engine_of(runner, model.vocabulary, max_queue=1, eog=special.eog)
    engine.start()
    template = ChatTemplate(CHATML) if wrong == "template" else own_template()
    some = PROMPTS[::3]
    try:
        right = asyncio.run(n_right(engine, model, template, some))
    finally:
        engine.stop()
    if wrong == "nothing":
        assert right == len(some)
    else:
        assert right < 0.8 * len(some)

"""SmolLM2-135M-Instruct: answers equal those of the bare library and of llama.cpp's own server, token by token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.real.conftest import N_CTX
from tests.real.peer import Peer, bare_loop
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.generation.events import Delta, Finished
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

N_TOKENS = 32
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain gravity to a child.",
    "Translate 'good morning' into Spanish.",
    "List three uses of a paperclip.",
    "Who wrote Hamlet?",
    "What is 17 times 3?",
    "Describe a rainy street at night.",
    "Give me a recipe for pancakes.",
    "What does HTTP stand for?",
]
TEXTS = [
    "Once upon a time",
    "def fibonacci(n):",
    "The three laws of thermodynamics are",
    '{"name": "Ada", "age":',
    "Dear Sir or Madam,",
    "1, 1, 2, 3, 5, 8,",
    "La capital de España es",
    "In the beginning",
    "<html><head><title>",
    "Roses are red, violets are",
]


def conversation(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def texts_of(loaded: LoadedModel) -> list[str]:
    template = loaded.service._prompts._conversations._templates.default
    return [*(template.prompt(conversation(question)) for question in QUESTIONS), *TEXTS]


def prompts_of(loaded: LoadedModel) -> list[tuple[int, ...]]:
    return [loaded.service._prompts._tokens(text, add_special=True) for text in texts_of(loaded)]


async def greedy(loaded: LoadedModel, name: str, prompt: tuple[int, ...]) -> list[int]:
    request = GenerationRequest(name, prompt, SamplingParams(temperature=0), N_TOKENS, cache_prompt=False)
    tokens: list[int] = []
    async for items in loaded.engine.submit(request):
        for event in items[0]:
            if isinstance(event, Delta):
                tokens += event.tokens
            elif isinstance(event, Finished):
                assert event.error is None
    return tokens


@pytest.fixture(scope="module")
def alone(smollm2: LoadedModel) -> list[list[int]]:
    async def one_by_one() -> list[list[int]]:
        return [await greedy(smollm2, f"alone{n}", prompt) for n, prompt in enumerate(prompts_of(smollm2))]

    return asyncio.run(one_by_one())


def test_prompts_have_the_tokens_that_llama_server_makes(smollm2: LoadedModel, smollm2_peer: Peer) -> None:
    assert [list(prompt) for prompt in prompts_of(smollm2)] == [smollm2_peer.tokenize(t) for t in texts_of(smollm2)]


def test_greedy_answers_equal_the_bare_loop(smollm2: LoadedModel, smollm2_path: Path, alone: list[list[int]]) -> None:
    assert alone == bare_loop(smollm2_path, prompts_of(smollm2), N_TOKENS, N_CTX)


def test_greedy_answers_equal_llama_server(smollm2: LoadedModel, smollm2_peer: Peer, alone: list[list[int]]) -> None:
    theirs = [smollm2_peer.greedy(prompt, N_TOKENS) for prompt in prompts_of(smollm2)]
    # Its last token may be the end of generation, which is not part of an answer.
    assert [tokens[: len(ours)] for tokens, ours in zip(theirs, alone, strict=True)] == alone
    assert all(len(tokens) - len(ours) <= 1 for tokens, ours in zip(theirs, alone, strict=True))


def test_greedy_answers_are_the_same_among_16_concurrent_requests(smollm2: LoadedModel, alone: list[list[int]]) -> None:
    async def together() -> list[list[int]]:
        prompts = prompts_of(smollm2)
        return list(await asyncio.gather(*(greedy(smollm2, f"among{n}", p) for n, p in enumerate(prompts))))

    assert asyncio.run(together()) == alone


def test_the_chat_template_renders_as_in_llama_server(smollm2: LoadedModel, smollm2_peer: Peer) -> None:
    prompts = smollm2.service._prompts
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi there!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye."},
    ]
    for said in (messages, messages[1:2]):
        text = prompts._conversations._templates.default.prompt(said)
        assert text == smollm2_peer.chat_prompt(said)
        assert list(prompts._tokens(text, add_special=True)) == smollm2_peer.tokenize(text)

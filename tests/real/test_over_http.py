"""SmolLM2 behind a real worker process, asked by OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.real.conftest import worker_client
from tests.real.peer import Peer
from tests.real.test_smollm2 import N_TOKENS, QUESTIONS, TEXTS

pytestmark = pytest.mark.real

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
MODEL = "SmolLM2-135M-Instruct.Q4_1"


@pytest.fixture(scope="module")
def client(smollm2_path: Path) -> Iterator[openai.OpenAI]:
    with worker_client(smollm2_path, N_CTX="1024", N_PARALLEL="16") as made:
        yield made


def answer(client: openai.OpenAI, **options: Any) -> str:
    completion = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, **options)
    return str(completion.choices[0].message.content)


def test_a_greedy_answer_is_the_same_twice(client: openai.OpenAI) -> None:
    assert answer(client, temperature=0) == answer(client, temperature=0) != ""


def test_16_concurrent_clients_get_the_answers_of_llama_server(client: openai.OpenAI, smollm2_peer: Peer) -> None:
    def complete(prompt: str) -> str:
        return client.completions.create(model=MODEL, prompt=prompt, max_tokens=N_TOKENS, temperature=0).choices[0].text

    prompts = [*TEXTS, *QUESTIONS]
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(complete, prompts))
    assert together == [smollm2_peer.complete(prompt, N_TOKENS) for prompt in prompts]


def test_a_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "".join(pieces) == answer(client, temperature=0)
    assert usage is not None
    assert usage.completion_tokens > 1


def test_a_stop_text_ends_the_answer(client: openai.OpenAI) -> None:
    whole = answer(client, temperature=0)
    stop = whole.split()[2]
    assert answer(client, temperature=0, stop=[stop]) == whole.partition(stop)[0]


def test_a_seed_draws_the_same_answer_again_and_n_answers_differ(client: openai.OpenAI) -> None:
    assert answer(client, seed=7, temperature=1) == answer(client, seed=7, temperature=1)
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me a story."}],
        n=2,
        seed=7,
        max_tokens=24,
        temperature=1.2,
    )
    first, second = (choice.message.content for choice in completion.choices)
    assert first != second


def test_log_probabilities_rank_the_drawn_token_first(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    for token in logprobs.content:
        assert token.logprob <= 0
        assert token.top_logprobs[0].token == token.token


def test_a_second_question_reuses_the_first_ones_prompt(client: openai.OpenAI) -> None:
    told: Any = [
        {"role": "system", "content": "You are a helpful guide who knows every city of Europe by heart. " * 4},
        {"role": "user", "content": "Hello"},
    ]
    client.chat.completions.create(model=MODEL, messages=told, max_tokens=1)
    told[-1]["content"] = "Where is Rome?"
    completion = client.chat.completions.create(model=MODEL, messages=told, max_tokens=1)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    assert (completion.usage.prompt_tokens_details.cached_tokens or 0) > 40

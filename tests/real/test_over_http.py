"""SmolLM2 behind a real worker process, asked by OpenAI's client."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from worker_gguf.worker_process import WorkerProcess

pytestmark = pytest.mark.real

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
MODEL = "SmolLM2-135M-Instruct.Q4_1"


@pytest.fixture(scope="module")
def client(smollm2_path: Path) -> Iterator[openai.OpenAI]:
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        environment = {"MODEL": str(smollm2_path), "MODE": "http", "N_CTX": "1024", "N_PARALLEL": "4", "N_THREADS": "2"}
        worker = WorkerProcess(environment, log)
        try:
            worker.wait_ready(0.05)
            http_client = openai.DefaultHttpxClient(trust_env=False)
            with openai.OpenAI(
                base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=120, http_client=http_client
            ) as made:
                yield made
        finally:
            worker.stop()


def answer(client: openai.OpenAI, **options: Any) -> str:
    completion = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, **options)
    return str(completion.choices[0].message.content)


def test_a_greedy_answer_is_the_same_twice(client: openai.OpenAI) -> None:
    assert answer(client, temperature=0) == answer(client, temperature=0) != ""


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

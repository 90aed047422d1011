"""Gemma 3 270M, a model with a sliding window: its prefixes are used again, its numbers are llama.cpp's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.real.conftest import worker_client
from tests.real.peer import Peer
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.generation.events import Delta, Finished, TokenLogprob, Usage
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

WINDOW = 512
# A prompt is prefilled in steps of this size. Behind a prefix that ends at a multiple of it, the batches are the same,
# reused or computed afresh.
N_UBATCH = 512
TEXTS = [
    "The capital of France is",
    "Once upon a time there was",
    "Water boils at a temperature of",
    "import numpy as",
    "To be, or not to be, that is the",
    "The quick brown fox jumps over the",
]
_ids = itertools.count()


def tokens_of(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    return loaded.service._prompts._tokens(text, add_special=True)


def tail_of(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    """Return the tokens without the BOS token."""
    return tokens_of(loaded, text)[1:]


def counting(phrase: str, n: int) -> str:
    return " ".join(phrase.format(n=number) for number in range(n))


def first_token(loaded: LoadedModel, prompt: Sequence[int], *, cache: bool) -> tuple[TokenLogprob, Usage]:
    request = GenerationRequest(
        f"g{next(_ids)}", tuple(prompt), SamplingParams(temperature=0), 1, top_logprobs=20, cache_prompt=cache
    )

    async def run() -> tuple[TokenLogprob, Usage]:
        logprobs: list[TokenLogprob] = []
        usage: Usage | None = None
        async for items in loaded.engine.submit(request):
            for event in items[0]:
                if isinstance(event, Delta):
                    logprobs += event.logprobs
                elif isinstance(event, Finished):
                    assert event.error is None
                    usage = event.usage
        assert usage is not None
        return logprobs[0], usage

    return asyncio.run(run())


def by_token(logprob: TokenLogprob) -> dict[int, float]:
    return {token: value for token, _, value in logprob.top}


def farthest(ours: dict[int, float], theirs: dict[int, float]) -> float:
    """Return the largest difference over the tokens in both lists, which must share most tokens."""
    common = ours.keys() & theirs.keys()
    assert len(common) >= 15
    return max(abs(ours[token] - theirs[token]) for token in common)


@pytest.mark.parametrize("text", TEXTS)
def test_the_first_tokens_are_as_likely_as_for_llama_server(gemma: LoadedModel, gemma_peer: Peer, text: str) -> None:
    prompt = tokens_of(gemma, text)
    logprob, _ = first_token(gemma, prompt, cache=False)
    theirs = gemma_peer.first_logprobs(prompt, 20)
    assert farthest(by_token(logprob), theirs) < 0.3


def test_a_shared_prefix_longer_than_the_window_is_used_again(gemma: LoadedModel) -> None:
    shared = tokens_of(gemma, counting("number {n} follows,", 300))[: 2 * N_UBATCH]
    # Nearly two windows more: a memory that drops tokens behind the window no longer has those before the tails.
    beyond = tokens_of(gemma, counting("item {n},", 300))[1:901]
    assert (len(shared), len(beyond)) == (2 * WINDOW, 900)
    first_token(gemma, [*shared, *beyond], cache=True)
    again = [first_token(gemma, [*shared, *tail_of(gemma, text)], cache=True) for text in TEXTS]
    afresh = [first_token(gemma, [*shared, *tail_of(gemma, text)], cache=False) for text in TEXTS]
    assert [usage.cached_tokens for _, usage in again] == [len(shared)] * len(TEXTS)
    assert [usage.cached_tokens for _, usage in afresh] == [0] * len(TEXTS)
    for (reused, _), (computed, _) in zip(again, afresh, strict=True):
        assert farthest(by_token(reused), by_token(computed)) < 0.05


def test_the_reused_prefix_shows_in_the_usage_over_http(gemma_path: Path) -> None:
    with worker_client(gemma_path, N_CTX="2048", N_PARALLEL="2") as client:
        model = client.models.list().data[0].id
        shared = counting("number {n} follows,", 200)
        cached = []
        for text in ("and then", "but before"):
            completion = client.completions.create(model=model, prompt=f"{shared} {text}", max_tokens=1, temperature=0)
            assert completion.usage is not None
            assert completion.usage.prompt_tokens > WINDOW
            details = completion.usage.prompt_tokens_details
            cached.append((details and details.cached_tokens) or 0)
    assert cached[0] == 0
    assert cached[1] > WINDOW

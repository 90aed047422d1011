"""Gemma 3 270M, a model with a sliding window: its prefixes are used again, its numbers are llama.cpp's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from tests.real.peer import Peer
from worker_gguf.engine.events import Delta, Finished, TokenLogprob, Usage
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

WINDOW = 512
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


def first_token(
    loaded: LoadedModel, prompt: Sequence[int], *, cache: bool, n_top: int = 20
) -> tuple[TokenLogprob, Usage]:
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
    """The largest difference over the tokens that both name, of which there must be most."""
    common = ours.keys() & theirs.keys()
    assert len(common) >= 15
    return max(abs(ours[token] - theirs[token]) for token in common)


@pytest.mark.parametrize("text", TEXTS)
def test_the_first_tokens_are_as_likely_as_for_llama_server(gemma: LoadedModel, gemma_peer: Peer, text: str) -> None:
    prompt = tokens_of(gemma, text)
    logprob, _ = first_token(gemma, prompt, cache=False)
    assert farthest(by_token(logprob), gemma_peer.first_logprobs(prompt, 20)) < 0.3


def test_a_shared_prefix_longer_than_the_window_is_used_again(gemma: LoadedModel) -> None:
    words = " ".join(f"number {n} follows number {n - 1}," for n in range(1, 130))
    shared = tokens_of(gemma, words)
    assert len(shared) > 2 * WINDOW
    tails = [tokens_of(gemma, text)[1:] for text in TEXTS[:3]]
    first_token(gemma, [*shared, *tails[0]], cache=True)
    for tail in tails[1:]:
        again, usage = first_token(gemma, [*shared, *tail], cache=True)
        afresh, none = first_token(gemma, [*shared, *tail], cache=False)
        assert usage.cached_tokens >= len(shared) - 1
        assert none.cached_tokens == 0
        assert farthest(by_token(again), by_token(afresh)) < 0.3

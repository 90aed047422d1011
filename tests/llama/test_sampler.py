"""Tests of sampling: each sampler does what its name says, and the short list of candidates changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from tests.fakes import request
from worker_gguf.engine.request import DEFAULT_SAMPLERS, SamplingParams
from worker_gguf.errors import EngineFailed
from worker_gguf.llama.candidates import Floats, shortlists
from worker_gguf.llama.chain import ChainFactory
from worker_gguf.llama.model import Model
from worker_gguf.llama.sampler import Scratch, SequenceSampler, draws_greedily, shortlist_rule

NEUTRAL = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)

Draw = Callable[..., list[int]]


@pytest.fixture
def factory(model: Model) -> Iterator[ChainFactory]:
    made = ChainFactory(model)
    yield made
    made.close()


def rows(n_vocab: int, n: int, seed: int = 0, scale: float = 3.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal((n, n_vocab)) * scale).astype(np.float32)


@pytest.fixture
def draw(model: Model, factory: ChainFactory) -> Draw:
    """Draw a token from each row, with one sampler."""

    def run(
        params: SamplingParams,
        logits: Floats,
        *,
        prompt: Sequence[int] = (1, 2, 3),
        shortlist: bool = False,
        banned: Sequence[int] = (),
    ) -> list[int]:
        sampler = SequenceSampler(request("r", prompt, sampling=params), factory, 512, banned, searches=shortlist)
        sampler.remember(prompt)
        scratch = Scratch(model.vocabulary.n_tokens)
        tokens = []
        for row in logits.copy():
            sampler.bias(row, ())
            want = sampler.wants(row.shape[0])
            found = shortlists(row[None], [want])[0] if want is not None else None
            tokens.append(sampler.draw(row, found, scratch))
            sampler.take(tokens[-1])
        sampler.close()
        return tokens

    return run


CHAINS = {
    "llama-server's default": SamplingParams(seed=1),
    "top_k": replace(NEUTRAL, top_k=5),
    "min_p": replace(NEUTRAL, min_p=0.1),
    "min_p after temperature": replace(NEUTRAL, min_p=0.1, temperature=1.7, samplers=("temperature", "min_p")),
    "top_k and penalties": replace(
        NEUTRAL, top_k=4, repeat_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, repeat_last_n=8
    ),
    "penalties that raise": replace(NEUTRAL, top_k=3, presence_penalty=-2.0, repeat_last_n=6),
    "min_p and penalties": replace(NEUTRAL, min_p=0.2, repeat_penalty=1.5, repeat_last_n=6),
    "dry": replace(NEUTRAL, top_k=4, dry_multiplier=2.0, dry_allowed_length=1, dry_penalty_last_n=8),
    "xtc after top_k": replace(NEUTRAL, top_k=6, xtc_probability=0.7, xtc_threshold=0.05),
    "dynatemp": replace(NEUTRAL, top_k=6, dynatemp_range=0.5),
    "typical": replace(NEUTRAL, typical_p=0.7),
    "top_n_sigma": replace(NEUTRAL, top_n_sigma=1.0, top_k=5),
    "top_p": replace(NEUTRAL, top_p=0.6),
    "mirostat 1": replace(NEUTRAL, mirostat=1),
    "mirostat 2": replace(NEUTRAL, mirostat=2),
    "adaptive_p": replace(NEUTRAL, min_p=0.05, adaptive_target=0.4),
    "infill": replace(NEUTRAL, top_k=10, samplers=("top_k", "top_p", "infill")),
    "greedy": replace(NEUTRAL, temperature=0.0),
    "greedy with penalties": replace(NEUTRAL, temperature=0.0, repeat_penalty=1.8, repeat_last_n=5),
}


@pytest.mark.parametrize("params", CHAINS.values(), ids=CHAINS.keys())
def test_the_shortlist_draws_the_same_token_as_the_whole_vocabulary(
    params: SamplingParams, draw: Draw, model: Model
) -> None:
    logits = rows(model.vocabulary.n_tokens, 60, scale=4.0)
    prompt = [int(token) for token in np.argsort(-logits[0])[:4]]
    assert draw(params, logits, prompt=prompt, shortlist=True) == draw(params, logits, prompt=prompt)


@pytest.mark.parametrize("params", CHAINS.values(), ids=CHAINS.keys())
def test_a_seed_gives_the_same_tokens_again(params: SamplingParams, draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 20)
    assert draw(params, logits) == draw(params, logits)


def test_no_seed_draws_afresh(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 20, scale=0.1)
    params = replace(NEUTRAL, seed=None)
    assert draw(params, logits) != draw(params, logits)


def test_temperature_zero_takes_the_largest_logit(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 10)
    assert draw(replace(NEUTRAL, temperature=0.0), logits) == [int(i) for i in logits.argmax(axis=1)]


def test_top_k_draws_among_the_k_largest(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 50, scale=0.1)
    for token, row in zip(draw(replace(NEUTRAL, top_k=3), logits), logits, strict=True):
        assert token in np.argsort(-row)[:3]


def test_min_p_draws_nothing_less_likely_than_its_share(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 50)
    for token, row in zip(draw(replace(NEUTRAL, min_p=0.5), logits), logits, strict=True):
        assert row[token] >= row.max() + np.log(0.5) - 1e-4


def test_logit_bias_forces_and_bans(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 5)
    assert draw(replace(NEUTRAL, logit_bias=((42, 1000.0),)), logits) == [42] * 5
    best = int(logits[0].argmax())
    greedy = replace(NEUTRAL, temperature=0.0, logit_bias=((best, float("-inf")),))
    assert draw(greedy, logits[:1]) == [int(np.argsort(-logits[0])[1])]


def test_a_banned_token_is_not_drawn(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 1)
    best = int(logits[0].argmax())
    assert draw(replace(NEUTRAL, temperature=0.0), logits, banned=[best]) != [best]


def test_nothing_left_to_draw_is_an_error_and_not_a_token(draw: Draw, model: Model) -> None:
    logits = np.full((1, model.vocabulary.n_tokens), -np.inf, np.float32)
    with pytest.raises(EngineFailed, match="No token could be drawn"):
        draw(replace(NEUTRAL, temperature=0.0), logits)
    logits[:] = np.nan
    with pytest.raises(EngineFailed, match="No token could be drawn"):
        draw(replace(NEUTRAL, temperature=0.0), logits)


def test_repeat_penalty_moves_away_from_the_prompt(draw: Draw, model: Model) -> None:
    logits = np.zeros((1, model.vocabulary.n_tokens), np.float32)
    logits[0, [10, 11]] = 5.0, 4.9
    greedy = replace(NEUTRAL, temperature=0.0)
    assert draw(greedy, logits, prompt=[10]) == [10]
    assert draw(replace(greedy, repeat_penalty=1.5), logits, prompt=[10]) == [11]


def test_repeat_last_n_ignores_older_tokens(draw: Draw, model: Model) -> None:
    logits = np.zeros((1, model.vocabulary.n_tokens), np.float32)
    logits[0, [10, 11]] = 5.0, 4.9
    params = replace(NEUTRAL, temperature=0.0, repeat_penalty=1.5, repeat_last_n=2)
    assert draw(params, logits, prompt=[10, 1, 2]) == [10]


def test_dry_stops_a_repetition(draw: Draw, model: Model) -> None:
    logits = np.zeros((1, model.vocabulary.n_tokens), np.float32)
    logits[0, [23, 30]] = 5.0, 4.0
    greedy = replace(NEUTRAL, temperature=0.0)
    prompt = [20, 21, 22, 23, 20, 21, 22]
    assert draw(greedy, logits, prompt=prompt) == [23]
    dry = replace(greedy, dry_multiplier=2.0, dry_allowed_length=2, dry_sequence_breakers=())
    assert draw(dry, logits, prompt=prompt) == [30]


def test_xtc_removes_the_likeliest(draw: Draw, model: Model) -> None:
    logits = np.full((20, model.vocabulary.n_tokens), -20.0, np.float32)
    logits[:, [5, 6]] = 2.0, 1.5
    params = replace(NEUTRAL, xtc_probability=1.0, xtc_threshold=0.1)
    assert set(draw(params, logits)) == {6}


def test_samplers_sets_the_order_and_turns_the_others_off(draw: Draw, model: Model) -> None:
    logits = rows(model.vocabulary.n_tokens, 30, scale=0.1)
    only = replace(NEUTRAL, top_k=1, samplers=("temperature",))
    assert draw(only, logits) != [int(i) for i in logits.argmax(axis=1)]


def test_which_chains_can_be_cut_short() -> None:
    assert shortlist_rule(SamplingParams()) == ("top_k", 40)
    assert shortlist_rule(replace(NEUTRAL, top_p=0.9)) is None
    assert shortlist_rule(replace(NEUTRAL, mirostat=2)) is None
    assert shortlist_rule(replace(NEUTRAL, top_k=7, xtc_probability=0.5, samplers=("xtc", "top_k"))) is None
    assert shortlist_rule(replace(NEUTRAL, temperature=0)) == ("top_k", 1)
    assert not draws_greedily(replace(NEUTRAL, temperature=0, xtc_probability=0.5))
    assert DEFAULT_SAMPLERS[0] == "penalties"

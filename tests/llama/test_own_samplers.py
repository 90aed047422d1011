"""Tests of the samplers that llama.cpp does not have, inside its chains, against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from tests.fakes import request
from worker_gguf.engine.request import SamplingParams
from worker_gguf.llama.candidates import Floats, shortlists
from worker_gguf.llama.chain import ChainFactory
from worker_gguf.llama.model import Model
from worker_gguf.llama.sampler import Scratch, SequenceSampler

N = 64
OFF = SamplingParams(top_k=0, top_p=1.0, min_p=0.0, temperature=1.0)
LOGITS = np.linspace(-3, 3, N).astype(np.float32)

Probabilities = Callable[..., Floats]


@pytest.fixture
def probabilities(model: Model) -> Probabilities:
    """Return what a chain draws from: the probabilities of all tokens, 0 for those that it removes."""

    def of(logits: Floats = LOGITS, **values: object) -> Floats:
        params = replace(OFF, **values)
        factory = ChainFactory(model)
        chain = factory.sampling(params, 1)
        scratch = Scratch(N)
        array = scratch.fill(logits.copy(), None)
        chain.apply(array)
        left = {int(array.data[i].id): float(array.data[i].p) for i in range(array.size)}
        chain.close()
        factory.close()
        return np.array([left.get(token, 0.0) for token in range(N)], np.float32)

    return of


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("factor", "curve"), [(0.2, 1.0), (1.5, 1.0), (0.3, 3.0), (2.0, 2.5)])
def test_smoothing_bends_logits_by_their_distance(probabilities: Probabilities, factor: float, curve: float) -> None:
    d = LOGITS.max() - LOGITS
    bent = LOGITS.max() - factor * ((3 - curve) / 2 * d**2 + (curve - 1) / 2 * d**3)
    found = probabilities(smoothing_factor=factor, smoothing_curve=curve)
    assert found == pytest.approx(softmax(bent), abs=1e-5)


def test_smoothing_leaves_banned_tokens_banned(probabilities: Probabilities) -> None:
    logits = LOGITS.copy()
    logits[5] = -np.inf
    found = probabilities(logits, smoothing_factor=0.3)
    assert found[5] == 0
    assert np.isfinite(found).all()


def test_smoothing_comes_before_the_samplers_that_remove_tokens(probabilities: Probabilities) -> None:
    found = probabilities(smoothing_factor=2.0, min_p=0.5)
    d = LOGITS.max() - LOGITS
    assert (found > 0).tolist() == (np.exp(-2.0 * d**2) >= 0.5).tolist()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_top_a_keeps_by_the_square_of_the_largest_probability(probabilities: Probabilities, share: float) -> None:
    logits = (LOGITS * 3).astype(np.float32)
    before = softmax(logits)
    assert (probabilities(logits, top_a=share) > 0).tolist() == (before >= share * before.max() ** 2).tolist()


def test_top_a_keeps_at_least_min_keep(probabilities: Probabilities) -> None:
    logits = (LOGITS * 100).astype(np.float32)
    assert (probabilities(logits, top_a=1.0, min_keep=3) > 0).sum() == 3


@pytest.mark.parametrize(
    "values", [{"smoothing_factor": 0.4}, {"top_a": 0.6}, {"smoothing_factor": 1.1, "top_a": 0.3, "min_p": 0.1}]
)
@pytest.mark.parametrize("top_k", [0, 20])
def test_a_search_for_candidates_draws_the_same(model: Model, values: dict[str, float], top_k: int) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 3, (20, 64 * 200)).astype(np.float32)
    params = SamplingParams(**values, top_k=top_k, top_p=0.9, seed=5, temperature=1.2)  # type: ignore[arg-type]
    drawn = []
    for searches in (True, False):
        factory = ChainFactory(model)
        sampler = SequenceSampler(request("a", sampling=params), factory, 64, (), searches=searches)
        scratch, tokens = Scratch(rows.shape[1]), []
        for row in rows:
            want = sampler.wants(rows.shape[1])
            found = None
            if want is not None:
                (found,) = shortlists(row[None], [want])
            tokens.append(sampler.draw(row, found, scratch))
            sampler.take(tokens[-1])
        drawn.append(tokens)
        sampler.close()
        factory.close()
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("values", [{"top_a": 0.2}, {"smoothing_factor": 0.5}, {"top_a": 0.2, "adaptive_target": 0.5}])
def test_where_all_tokens_are_banned_all_stay_banned(probabilities: Probabilities, values: dict[str, float]) -> None:
    found = probabilities(np.full(N, -np.inf, np.float32), **values)
    assert not np.nan_to_num(found).any() or np.isfinite(found).all()

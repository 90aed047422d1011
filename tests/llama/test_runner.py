"""Tests of the real runner with the embedded model: reused memory gives the results of a fresh computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from tests.fakes import request
from worker_gguf.engine.batch import Batch, Chunk, Close, Copy, Logprob, Open, StepResult, Truncate
from worker_gguf.engine.params import ContextParams
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner

GREEDY = SamplingParams(temperature=0.0)


class _Lent(LlamaRunner):
    """Closes everything but the model, which the other tests use too."""

    def close(self) -> None:
        self._model = _NoModel()  # type: ignore[assignment]
        super().close()


class _NoModel:
    def close(self) -> None:
        pass


@pytest.fixture(params=[True, False], ids=["unified", "partitioned"])
def runner(request: pytest.FixtureRequest, model: Model) -> Iterator[LlamaRunner]:
    params = ContextParams(
        n_ctx=256, n_parallel=4, n_cells=1024, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1,
        unified=request.param,
    )  # fmt: skip
    made = _Lent(model, Context(model, params), model.vocabulary.special, n_sampling_threads=2)
    yield made
    made.close()


Generate = Callable[..., list[int]]


@pytest.fixture
def generate(runner: LlamaRunner) -> Generate:
    """Run one sequence in a slot whose first `start` prompt tokens are in memory already."""

    def run(slot: int, prompt: list[int], n: int, *, start: int = 0, sampling: SamplingParams = GREEDY) -> list[int]:
        asked = request(f"slot{slot}", prompt, sampling=sampling)
        result = runner.run(Batch((Open(slot, asked, prompt),), (Chunk(slot, start, prompt[start:], 1),)))
        tokens = [one(result)]
        for i in range(1, n):
            chunk = Chunk(slot, len(prompt) + i - 1, tokens[-1:], 1)
            tokens.append(one(runner.run(Batch((), (chunk,)))))
        runner.run(Batch((Close(asked.id),), ()))
        return tokens

    return run


def one(result: StepResult) -> int:
    assert result.error is None
    (sampled,) = result.sampled
    (token,) = sampled.tokens
    return token


@pytest.fixture
def prompt(model: Model) -> list[int]:
    text = "<|start_header_id|>user<|end_header_id|>\n\nWhat is the capital of France?<|eot_id|>"
    return model.vocabulary.tokenize(text, add_special=True, parse_special=True)


def test_a_truncated_slot_goes_on_as_if_computed_afresh(
    runner: LlamaRunner, generate: Generate, prompt: list[int]
) -> None:
    expected = generate(0, prompt, 8)
    runner.run(Batch((Truncate(0, 5),), ()))
    assert generate(0, prompt, 8, start=5) == expected


def test_short_sequences_beside_a_long_one_draw_the_same_in_a_part_of_their_own(
    runner: LlamaRunner, generate: Generate, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (prompt * 10)[:90]
    expected = [generate(0, prompt, 1), generate(1, long, 1), generate(2, prompt[:-2], 1)]
    for slot in range(3):
        runner.run(Batch((Truncate(slot, 0),), ()))
    texts = [prompt, long, prompt[:-2]]
    requests = [request(f"r{slot}", text, sampling=GREEDY) for slot, text in enumerate(texts)]
    opens = tuple(Open(slot, asked, list(asked.prompt)) for slot, asked in enumerate(requests))
    decode, parts = runner._context.decode, []

    def noted(chunks: Sequence[Chunk]) -> Floats:
        parts.append([chunk.slot for chunk in chunks])
        return decode(chunks)

    runner._cells_per_pass = 0
    monkeypatch.setattr(runner._context, "decode", noted)
    result = runner.run(Batch(opens, tuple(Chunk(slot, 0, text, 1) for slot, text in enumerate(texts))))
    assert {sampled.slot: list(sampled.tokens) for sampled in result.sampled} == dict(enumerate(expected))
    assert parts == ([[1], [0, 2]] if runner.limits.partitioned else [[0, 1, 2]])
    assert result.decode_seconds > 0


def test_a_copied_prefix_goes_on_as_if_computed_afresh(
    runner: LlamaRunner, generate: Generate, prompt: list[int]
) -> None:
    expected = generate(0, prompt, 8)
    runner.run(Batch((Copy(0, 2, len(prompt) - 1),), ()))
    assert generate(2, prompt, 8, start=len(prompt) - 1) == expected
    # The source is untouched by what its copy does.
    runner.run(Batch((Truncate(0, len(prompt) - 1),), ()))
    assert generate(0, prompt, 8, start=len(prompt) - 1) == expected


def test_side_by_side_and_alone_draw_the_same(runner: LlamaRunner, generate: Generate, prompt: list[int]) -> None:
    expected = generate(0, prompt, 1)[0]
    runner.run(Batch((Truncate(0, 0),), ()))
    requests = [request(f"r{slot}", prompt, sampling=GREEDY) for slot in range(3)]
    result = runner.run(
        Batch(
            tuple(Open(slot, asked, prompt) for slot, asked in enumerate(requests)),
            tuple(Chunk(slot, 0, prompt, 1) for slot in range(3)),
        )
    )
    assert [sampled.tokens for sampled in result.sampled] == [(expected,)] * 3
    assert [sampled.slot for sampled in result.sampled] == [0, 1, 2]


def test_a_prompt_in_chunks_draws_the_same(runner: LlamaRunner, generate: Generate, prompt: list[int]) -> None:
    expected = generate(0, prompt, 1)
    asked = request("chunked", prompt, sampling=GREEDY)
    runner.run(Batch((Truncate(1, 0), Open(1, asked, prompt)), (Chunk(1, 0, prompt[:7], 0),)))
    assert one(runner.run(Batch((), (Chunk(1, 7, prompt[7:], 1),)))) == expected[0]


def asked_logprobs(prompt: list[int], n: int) -> GenerationRequest:
    return request("logprobs", prompt, sampling=GREEDY, top_logprobs=n)


def test_logprobs_are_a_distribution_and_name_the_likeliest(runner: LlamaRunner, prompt: list[int]) -> None:
    asked = asked_logprobs(prompt, 20)
    (sampled,) = runner.run(Batch((Open(0, asked, prompt),), (Chunk(0, 0, prompt, 1),))).sampled
    logprob = sampled.logprobs[0]
    assert logprob is not None
    assert logprob.top[0][0] == sampled.tokens[0]
    assert logprob.top[0][1] == logprob.logprob
    values = [value for _, value in logprob.top]
    assert values == sorted(values, reverse=True)
    assert 0.3 < float(np.exp(values).sum()) <= 1.0 + 1e-5


def test_min_tokens_bans_the_end_of_generation(runner: LlamaRunner, model: Model, prompt: list[int]) -> None:
    force = SamplingParams(temperature=0.0, logit_bias=tuple((token, 1000.0) for token in model.vocabulary.eog))
    for min_tokens, expected in ((0, True), (1, False)):
        asked = request(f"min{min_tokens}", prompt, sampling=force, min_tokens=min_tokens)
        result = runner.run(Batch((Truncate(0, 0), Open(0, asked, prompt)), (Chunk(0, 0, prompt, 1),)))
        assert (one(result) in model.vocabulary.eog) is expected


def test_a_request_that_bans_everything_ends_alone(runner: LlamaRunner, model: Model, prompt: list[int]) -> None:
    nothing = SamplingParams(logit_bias=tuple((t, float("-inf")) for t in range(model.vocabulary.n_tokens)))
    both = (request("bad", prompt, sampling=nothing), request("good", prompt, sampling=GREEDY))
    result = runner.run(
        Batch(
            tuple(Open(slot, asked, prompt) for slot, asked in enumerate(both)),
            tuple(Chunk(slot, 0, prompt, 1) for slot in range(2)),
        )
    )
    assert [slot for slot, _ in result.refused] == [0]
    assert [sampled.slot for sampled in result.sampled] == [1]


def test_several_rows_of_a_chunk_draw_the_same_tokens_as_single_steps(
    model: Model, generate: Generate, prompt: list[int], runner: LlamaRunner
) -> None:
    expected = generate(0, prompt, 4)
    params = replace(runner._context.params, n_rows=4)
    wide = _Lent(model, Context(model, params), model.vocabulary.special, n_sampling_threads=2)
    try:
        assert wide.limits.n_rows == 4
        for n_right in range(4):
            asked = request(f"r{n_right}", prompt, sampling=GREEDY)
            wide.run(Batch((Truncate(1, 0), Open(1, asked, prompt)), (Chunk(1, 0, prompt, 1),)))
            guesses = [*expected[1 : 1 + n_right], *([token + 1 for token in expected[1 + n_right :]])]
            chunk = Chunk(1, len(prompt), [expected[0], *guesses], 4)
            (sampled,) = wide.run(Batch((), (chunk,))).sampled
            assert sampled.tokens[:3] == tuple(expected[1 : 2 + n_right])[:3]
            assert len(sampled.tokens) == 1 + n_right
            wide.run(Batch((Close(asked.id),), ()))
    finally:
        wide.close()


def test_each_row_has_its_log_probabilities(model: Model, prompt: list[int], runner: LlamaRunner) -> None:
    params = replace(runner._context.params, n_rows=2)
    wide = _Lent(model, Context(model, params), model.vocabulary.special)
    try:
        asked = asked_logprobs(prompt, 3)
        (first,) = wide.run(Batch((Open(0, asked, prompt),), (Chunk(0, 0, prompt, 1),))).sampled
        (second,) = wide.run(Batch((), (Chunk(0, len(prompt), list(first.tokens), 1),))).sampled
        wide.run(Batch((Truncate(0, len(prompt)),), ()))
        both = [*first.tokens, *second.tokens]
        (sampled,) = wide.run(Batch((), (Chunk(0, len(prompt), both, 2),))).sampled
        assert len(sampled.tokens) == len(sampled.logprobs) == 2
        assert sampled.logprobs[0].logprob == pytest.approx(second.logprobs[0].logprob, abs=1e-4)
    finally:
        wide.close()


def test_a_prompt_is_scored_as_its_tokens_are_when_they_are_drawn(
    runner: LlamaRunner, generate: Generate, prompt: list[int]
) -> None:
    answer = generate(0, prompt, 4)
    text = [*prompt, *answer]
    asked = asked_logprobs(prompt, 3)
    drawn: list[Logprob] = []
    result = runner.run(Batch((Open(1, asked, prompt),), (Chunk(1, 0, prompt, 1),)))
    for token in answer:
        (sampled,) = result.sampled
        drawn += sampled.logprobs
        result = runner.run(Batch((), (Chunk(1, len(prompt) + len(drawn) - 1, [token], 1),)))
    scoring = request("scored", text, sampling=GREEDY, prompt_logprobs=3, cache_prompt=False)
    scored: list[Logprob] = []
    runner.run(Batch((Open(2, scoring, text),), ()))
    for start in range(0, len(text) - 1, 4):
        rows = text[start : min(start + 4, len(text) - 1)]
        chunk = Chunk(2, start, rows, len(rows), tuple(text[start + 1 : start + 1 + len(rows)]))
        (sampled,) = runner.run(Batch((), (chunk,))).sampled
        assert sampled.tokens == ()
        scored += sampled.scored
    assert [entry.token for entry in scored] == text[1:]
    for entry, expected in zip(scored[-len(answer) :], drawn, strict=True):
        assert entry.logprob == pytest.approx(expected.logprob, abs=1e-3)
        assert [token for token, _ in entry.top][:1] == [token for token, _ in expected.top][:1]

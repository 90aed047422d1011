"""Tests of every kind of memory, whatever the scheduler does with it: answers are those of a loop with one sequence.

The models are tiny and random, so that their answers depend on every token in memory, near and far. The loop computes
the tokens of a request one by one in an empty context. Each token of the answer must be the likeliest there, up to
`TIE`: a near tie, which another processor may decide differently, fails no test, and a wrong memory fails at once. All
numbers are in f32, without flash attention. So the order of sums changes logits by 0.00001, where it was seen, and the
next likely token is 0.6 away in the median. With f16 or flash attention it was 0.05, and 4 where that made a token of
a mixture of experts choose another expert.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from msgspec.structs import replace

from tests import tiny_models
from tests.fakes import request
from tests.mtp_models import write_mtp
from worker_gguf.engine.batch import Batch, Chunk, StepResult
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Ended, Token, Update
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner

TIE = 0.01
CACHE_BYTES = 64 << 20
PARAMS = ContextParams(
    n_ctx=256, n_parallel=3, n_cells=768, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, unified=True,
    flash_attn="off", type_k="f32", type_v="f32",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    write: Callable[[Path], Path]
    swa_full: bool = True
    can_cut: bool = True


KINDS = {
    "attention": Kind(tiny_models.write_attention),
    "mixture of experts": Kind(tiny_models.write_mixture),
    "MTP layer left out": Kind(write_mtp),
    "whole window": Kind(tiny_models.write_sliding_window),
    "window": Kind(tiny_models.write_sliding_window, swa_full=False, can_cut=False),
    "recurrent": Kind(tiny_models.write_recurrent, can_cut=False),
    "hybrid": Kind(tiny_models.write_hybrid, can_cut=False),
}


class Engine:
    """A scheduler with the real runner. A step takes a fixed time and more for each token of a prompt, so that states
    are always worth saving and guesses always worth trying."""

    def __init__(self, model: Model, params: ContextParams, cache_bytes: int = 0) -> None:
        self.runner = LlamaRunner(model, Context(model, params), model.vocabulary.special)
        self.scheduler = Scheduler(self.runner.limits, eog=model.vocabulary.eog, max_queue=100, cache_bytes=cache_bytes)
        self.tokens: dict[str, list[int]] = {}
        self.endings: dict[str, Ended] = {}
        self.operations: Counter[str] = Counter()
        self.n_guessed = self.n_right = self.n_lost = 0
        self.guesses = False
        self.hints: dict[str, list[int]] = {}

    def add(self, prompt: Sequence[int], n: int) -> str:
        name = f"r{len(self.tokens)}"
        self.tokens[name] = []
        self.scheduler.add(
            request(name, prompt, max_tokens=n, sampling=SamplingParams(temperature=0.0, ignore_eos=True))
        )
        return name

    def answers(self, *prompts: Sequence[int], n: int = 12) -> list[list[int]]:
        names = [self.add(prompt, n) for prompt in prompts]
        self.finish()
        return [self.tokens[name] for name in names]

    def n_cached(self, prompt: Sequence[int], n: int = 12) -> tuple[list[int], int]:
        """Return the answer, and how many tokens of the prompt were not computed for it."""
        name = self.add(prompt, n)
        self.finish()
        return self.tokens[name], self.endings[name].sequence.n_cached or 0

    def finish(self) -> None:
        for _ in range(10_000):
            if not self.step():
                return
        raise AssertionError("the scheduler does not come to an end")

    def step(self) -> bool:
        batch = self.scheduler.schedule()
        if batch is None:
            return False
        if self.guesses and batch.n_tokens <= PARAMS.n_batch // 2:
            batch = replace(batch, chunks=tuple(self._with_guesses(chunk) for chunk in batch.chunks))
        self.take(self.scheduler.commit(batch, self._run(batch)))
        return True

    def take(self, updates: list[Update]) -> None:
        for update in updates:
            if isinstance(update, Token):
                self.tokens[update.sequence.id].append(update.token)
            elif isinstance(update, Ended):
                assert update.error is None
                self.endings[update.sequence.id] = update

    def _with_guesses(self, chunk: Chunk) -> Chunk:
        """Add a wrong guess, after none to three right ones if the answer is known."""
        sequence = self.scheduler.memory.slots[chunk.slot].sequence
        if sequence is None or len(chunk.tokens) > 1 or not chunk.n_outputs:
            return chunk
        right = self.hints.get(sequence.id, [])[sequence.n_generated :][: sequence.n_generated % 4]
        return replace(chunk, tokens=[*chunk.tokens, *right, 255], n_outputs=2 + len(right))

    def _run(self, batch: Batch) -> StepResult:
        result = self.runner.run(batch)
        self.operations.update(type(operation).__name__ for operation in batch.operations)
        self.n_guessed += sum(chunk.n_outputs - 1 for chunk in batch.chunks if chunk.n_outputs > 1)
        self.n_right += sum(len(sampled.tokens) - 1 for sampled in result.sampled)
        self.n_lost += len(result.lost)
        n_prompt = sum(len(chunk.tokens) - chunk.n_outputs for chunk in batch.chunks)
        return replace(result, decode_seconds=0.01 + 0.01 * n_prompt, sample_seconds=0.0)


Engines = Callable[..., Engine]
Check = Callable[[Sequence[int], Sequence[int]], None]


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def model(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    loaded = Model(kind.write(tmp_path_factory.mktemp("kinds") / "model.gguf"), ModelParams())
    yield loaded
    loaded.close()


@pytest.fixture(params=[True, False], ids=["unified", "partitioned"])
def params(request: pytest.FixtureRequest, kind: Kind) -> ContextParams:
    return replace(PARAMS, unified=request.param, swa_full=kind.swa_full)


@pytest.fixture
def engines(model: Model) -> Iterator[Engines]:
    made: list[Engine] = []

    def make(params: ContextParams, cache_bytes: int = 0) -> Engine:
        made.append(Engine(model, params, cache_bytes))
        return made[-1]

    yield make
    for engine in made:
        # The model stays open for other tests.
        engine.runner._context.close()


@pytest.fixture(scope="module")
def check(model: Model) -> Iterator[Check]:
    """Assert that each token of an answer is the likeliest one, up to a tie, after all tokens before it."""
    loop = Context(model, replace(PARAMS, n_parallel=1, n_cells=PARAMS.n_ctx))

    def check(prompt: Sequence[int], answer: Sequence[int]) -> None:
        assert answer
        assert loop.truncate(0, 0)
        tokens = [*prompt, *answer]
        for at, (token, following) in enumerate(pairwise(tokens)):
            row = loop.decode([Chunk(0, at, [token], 1)])[0]
            row[list(model.vocabulary.eog)] = -np.inf
            if at >= len(prompt) - 1:
                assert row.max() - row[following] <= TIE, f"token {at - len(prompt) + 2} of the answer is wrong"

    yield check
    loop.close()


def words(seed: int, n: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 200, n)]


@pytest.mark.parametrize("n", [1, 64, 65, 150])
def test_a_request_alone(check: Check, params: ContextParams, engines: Engines, n: int) -> None:
    (answer,) = engines(params).answers(words(n, n))
    check(words(n, n), answer)


def test_requests_of_different_lengths_at_once(check: Check, params: ContextParams, engines: Engines) -> None:
    prompts = [words(seed, n) for seed, n in enumerate([1, 150, 40, 20, 64, 5, 99])]
    for prompt, answer in zip(prompts, engines(params).answers(*prompts), strict=True):
        check(prompt, answer)


def test_prompts_that_begin_alike_at_once(check: Check, params: ContextParams, engines: Engines) -> None:
    prompts = [words(1, 90) + words(seed, 10) for seed in (2, 3, 4)] + [words(1, 90)]
    for prompt, answer in zip(prompts, engines(params).answers(*prompts), strict=True):
        check(prompt, answer)


@pytest.mark.parametrize("cache_bytes", [0, CACHE_BYTES])
def test_a_conversation_in_turns(check: Check, params: ContextParams, engines: Engines, cache_bytes: int) -> None:
    engine = engines(params, cache_bytes)
    prompt, n_before = words(5, 40), 1
    for turn in range(4):
        answer, n_cached = engine.n_cached(prompt)
        check(prompt, answer)
        # The last drawn token is never computed before the next turn.
        assert n_cached == n_before - 1
        n_before = len(prompt) + len(answer)
        prompt = prompt + answer + words(turn, 20)


def test_a_conversation_beside_others(check: Check, params: ContextParams, engines: Engines) -> None:
    engine = engines(params)
    prompts = [words(seed, 30) for seed in (1, 2, 3)]
    for turn in range(3):
        answers = engine.answers(*prompts)
        for prompt, answer in zip(prompts, answers, strict=True):
            check(prompt, answer)
        prompts = [prompt + answer + words(turn, 15) for prompt, answer in zip(prompts, answers, strict=True)]


@pytest.mark.parametrize("cache_bytes", [0, CACHE_BYTES])
def test_a_turn_whose_last_answer_is_rendered_differently(
    check: Check, params: ContextParams, engines: Engines, kind: Kind, cache_bytes: int
) -> None:
    engine = engines(params, cache_bytes)
    engine.answers(words(9, 100))  # so that the cost of a prompt is known
    first = words(5, 80)
    (answer,) = engine.answers(first)
    for kept in (75, 70):
        prompt = first[:kept] + words(kept, 30)
        second, n_cached = engine.n_cached(prompt)
        check(prompt, second)
        # Where nothing can be cut, the state before the last tokens of the prompt was saved.
        assert n_cached == (kept if kind.can_cut else 64 if cache_bytes else 0)
    check(first, answer)


def test_a_conversation_that_lost_its_slot_comes_back(check: Check, params: ContextParams, engines: Engines) -> None:
    engine = engines(params, CACHE_BYTES)
    engine.answers(words(9, 100))
    prompt, n_before = words(5, 60), 1
    for turn in range(3):
        answer, n_cached = engine.n_cached(prompt)
        check(prompt, answer)
        assert n_cached == n_before - 1
        n_before = len(prompt) + len(answer)
        others = [words(100 * turn + seed, 90) for seed in range(3)]
        for other, theirs in zip(others, engine.answers(*others), strict=True):
            check(other, theirs)
        prompt = prompt + answer + words(turn, 20)
    assert engine.operations["Load"] >= 2


@pytest.mark.parametrize("cache_bytes", [0, CACHE_BYTES])
def test_sequences_that_wait_for_cells_go_on(
    check: Check, params: ContextParams, engines: Engines, cache_bytes: int
) -> None:
    if not params.unified:
        pytest.skip("a part belongs to one sequence, so none waits for cells")
    engine = engines(replace(params, n_cells=256), cache_bytes)
    assert engine.runner.limits.n_cells == 256
    engine.answers(words(9, 100))
    prompts = [words(seed, 70) for seed in (1, 2, 3)]
    for prompt, answer in zip(prompts, engine.answers(*prompts, n=100), strict=True):
        assert len(answer) == 100
        check(prompt, answer)
    assert engine.operations["Open"] > 4
    assert engine.operations["Load"] == (0 if not cache_bytes else engine.operations["Open"] - 4)


def test_guesses_change_no_answer(check: Check, params: ContextParams, engines: Engines, kind: Kind) -> None:
    if not kind.can_cut:
        pytest.skip("a wrong guess cannot be taken back")
    prompts = [words(seed, 50) for seed in (1, 2, 3)]
    plain, engine = engines(params), engines(replace(params, n_rows=15))
    answers = plain.answers(*prompts, n=60)
    engine.guesses, engine.hints = True, dict(zip(("r0", "r1", "r2"), answers, strict=True))
    for prompt, answer in zip(prompts, engine.answers(*prompts, n=60), strict=True):
        check(prompt, answer)
    assert engine.n_guessed > engine.n_right > 60


def test_a_memory_that_cannot_be_cut_gets_no_guesses(params: ContextParams, engines: Engines, kind: Kind) -> None:
    engine = engines(replace(params, n_rows=15))
    engine.answers([1, 2, 3, 4, 5] * 20, n=100)
    assert kind.can_cut or engine.n_guessed == 0


def test_a_conversation_whose_beginning_llama_cpp_overwrote_is_computed_again(
    check: Check, params: ContextParams, engines: Engines, kind: Kind
) -> None:
    engine = engines(params)
    first, second = words(1, 60), words(2, 60)
    engine.answers(first, second, n=2)
    engine.answers(words(3, 75), n=2)  # in the third slot
    engine.answers(first[:5] + words(4, 75), n=2)  # the cells of the first one are too few for it
    before = engine.n_lost
    prompt = second[:20] + words(5, 60)
    (answer,) = engine.answers(prompt)
    check(prompt, answer)
    assert engine.n_lost - before == (params.unified and kind == KINDS["whole window"])


@dataclass(frozen=True)
class Ask:
    """The next turn of a conversation: all but its last `n_cut` tokens, and `n_new` others. Then some steps."""

    conversation: int
    n_cut: int
    n_new: int
    n_answer: int
    n_steps: int
    cancels: bool


@dataclass(frozen=True)
class Script:
    n_cells: int
    n_rows: int
    cache_bytes: int
    asks: list[Ask]


@st.composite
def scripts(draw: DrawFn) -> Script:
    ask = st.builds(
        Ask,
        conversation=st.integers(0, 4),
        n_cut=st.sampled_from([0, 0, 1, 10, 20, 60]),
        n_new=st.integers(1, 80),
        n_answer=st.integers(1, 40),
        n_steps=st.sampled_from([0, 1, 5, 20, 100]),
        cancels=st.sampled_from([False] * 7 + [True]),
    )
    return Script(
        draw(st.sampled_from([256, 512, 768])),
        draw(st.sampled_from([3, 15])),
        draw(st.sampled_from([0, 100_000, CACHE_BYTES])),
        draw(st.lists(ask, min_size=3, max_size=12)),
    )


@settings(max_examples=4, deadline=None, derandomize=True)
@given(script=scripts(), unified=st.booleans())
def test_any_conversations(model: Model, check: Check, kind: Kind, script: Script, unified: bool) -> None:
    n_cells = script.n_cells if unified else PARAMS.n_cells
    changes = {"unified": unified, "swa_full": kind.swa_full, "n_cells": n_cells, "n_rows": script.n_rows}
    engine = Engine(model, replace(PARAMS, **changes), script.cache_bytes)
    engine.guesses = kind.can_cut and script.n_rows > PARAMS.n_parallel
    try:
        prompts = run(engine, script.asks)
        assert engine.endings.keys() == prompts.keys()
        for name, prompt in prompts.items():
            if engine.tokens[name]:
                check(prompt, engine.tokens[name])
            assert engine.tokens[name] or engine.endings[name].reason == "cancelled"
    finally:
        engine.runner._context.close()


def run(engine: Engine, asks: list[Ask]) -> dict[str, list[int]]:
    """Carry out a script. Returns the prompt of each request."""
    prompts: dict[str, list[int]] = {}
    last: dict[int, str] = {}
    for ask in asks:
        name = last.get(ask.conversation)
        if name is not None and name not in engine.endings:
            if ask.cancels:
                engine.take(engine.scheduler.finish(name, "cancelled"))
            continue
        held = [] if name is None else prompts[name] + engine.tokens[name]
        prompt = held[: max(0, len(held) - ask.n_cut)] + words(ask.n_new, ask.n_new)
        if len(prompt) >= PARAMS.n_ctx:
            prompt = words(ask.conversation, ask.n_new)
        last[ask.conversation] = engine.add(prompt, ask.n_answer)
        prompts[last[ask.conversation]] = prompt
        for _ in range(ask.n_steps):
            engine.step()
    engine.finish()
    return prompts

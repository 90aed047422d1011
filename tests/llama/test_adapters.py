"""Tests of LoRA adapters in llama.cpp: answers with each set are those of a loop that has only this set.

The models and the rule for ties are those of `test_kinds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bench import adapters as writer
from tests import tiny_models
from tests.fakes import request
from tests.llama.test_kinds import CACHE_BYTES, KINDS, PARAMS, TIE, Kind, words
from tests.mtp_models import write_mtp
from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import Batch, Chunk, StepResult
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Ended, Token
from worker_gguf.errors import ModelInvalid
from worker_gguf.llama.adapters import Adapter, ContextAdapters
from worker_gguf.llama.context import Context
from worker_gguf.llama.draft import LlamaDrafter
from worker_gguf.llama.model import Model
from worker_gguf.llama.mtp import MtpDrafter
from worker_gguf.llama.runner import LlamaRunner

SETS: tuple[AdapterSet, ...] = ((), ((0, 1.0),), ((0, 0.5),), ((1, 1.0),), ((0, 1.0), (1, -0.7)))


@dataclass(frozen=True)
class Adapted:
    """A model with two adapters, and a loop that computes one sequence with any set of them."""

    kind: Kind
    model: Model
    adapters: list[Adapter]
    loop: Context
    loop_adapters: ContextAdapters

    def check(self, prompt: Sequence[int], answer: Sequence[int], adapters: AdapterSet) -> None:
        """Assert that each token of an answer is the likeliest one, up to a tie, after all tokens before it."""
        assert answer
        assert self.loop.truncate(0, 0)
        with self.loop_adapters.switching(adapters):
            for at, (token, following) in enumerate(pairwise([*prompt, *answer])):
                row = self.loop.decode([Chunk(0, at, [token], 1)])[0]
                row[list(self.model.vocabulary.eog)] = -np.inf
                if at >= len(prompt) - 1:
                    wrong = f"token {at - len(prompt) + 2} of the answer with {adapters} is wrong"
                    assert row.max() - row[following] <= TIE, wrong


class Engine:
    """A scheduler with the real runner. The seconds are invented: states are always worth saving, and turns short."""

    def __init__(self, adapted: Adapted, params: ContextParams, cache_bytes: int = 0, drafts: str = "") -> None:
        """With `drafts`, the model itself guesses as a draft model ("model"), or its MTP layer ("mtp")."""
        model = adapted.model
        self.runner = LlamaRunner(model, Context(model, params), model.vocabulary.special, adapters=adapted.adapters)
        self._contexts = [self.runner._context]
        drafter: LlamaDrafter | MtpDrafter | None = None
        own = replace(params, n_batch=params.n_ubatch, n_rows=params.n_parallel)
        if drafts == "mtp":
            drafter = MtpDrafter.open(model, own, self.runner._context, 0)
            self._contexts.insert(0, drafter._context)
        elif drafts:
            self._contexts.append(Context(model, own))
            drafter = LlamaDrafter(model, self._contexts[-1], model.n_vocab)
        if drafter is not None:
            drafter.adopt(model.vocabulary.special)
        self.scheduler = Scheduler(
            self.runner.limits, eog=model.vocabulary.eog, max_queue=100, cache_bytes=cache_bytes, drafter=drafter
        )
        self.n_drafted = self.n_right = 0
        self.tokens: dict[str, list[int]] = {}
        self.endings: dict[str, Ended] = {}
        self.switches: list[float] = []
        self._previous: AdapterSet = ()

    def close(self) -> None:
        """Close the contexts. The model stays open for other tests."""
        for context in self._contexts:
            context.close()

    def add(self, prompt: Sequence[int], adapters: AdapterSet, n: int = 12) -> str:
        name = f"r{len(self.tokens)}"
        self.tokens[name] = []
        sampling = SamplingParams(temperature=0.0, ignore_eos=True)
        self.scheduler.add(request(name, prompt, max_tokens=n, sampling=sampling, adapters=adapters))
        return name

    def step(self) -> bool:
        batch = self.scheduler.schedule()
        self.n_drafted += len(self.scheduler.take_drafted().slots)
        if batch is None:
            return False
        for update in self.scheduler.commit(batch, self._run(batch)):
            if isinstance(update, Token):
                self.tokens[update.sequence.id].append(update.token)
            elif isinstance(update, Ended):
                assert update.error is None
                self.endings[update.sequence.id] = update
        return True

    def finish(self) -> None:
        for _ in range(10_000):
            if not self.step():
                return
        raise AssertionError("the scheduler does not come to an end")

    def _run(self, batch: Batch) -> StepResult:
        result = self.runner.run(batch)
        if batch.chunks and not result.lost:
            if batch.adapters != self._previous:
                self.switches.append(result.switch_seconds)
            else:
                assert result.switch_seconds == 0.0
            self._previous = batch.adapters
        self.n_right += sum(len(sampled.tokens) - 1 for sampled in result.sampled)
        n_prompt = sum(len(chunk.tokens) - chunk.n_outputs for chunk in batch.chunks)
        return replace(result, decode_seconds=0.04 + 0.01 * n_prompt, sample_seconds=0.0)


@pytest.fixture(scope="module", params=[name for name in KINDS if name != "MTP layer left out"])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    yield from opened(KINDS[request.param], tmp_path_factory.mktemp("adapters"))


def opened(kind: Kind, folder: Path, *, has_mtp: bool = False) -> Iterator[Adapted]:
    base = kind.write(folder / "model.gguf")
    model = Model(base, ModelParams(has_mtp=has_mtp))
    paths = [writer.write(folder / f"{seed}.gguf", base, seed=seed, gain=0.5) for seed in (1, 2)]
    adapters = [Adapter(model, "model.gguf", path.stem, path) for path in paths]
    loop = Context(model, replace(PARAMS, n_parallel=1, n_cells=PARAMS.n_ctx))
    yield Adapted(kind, model, adapters, loop, ContextAdapters(loop, adapters))
    loop.close()
    model.close()


Engines = Callable[..., Engine]


@pytest.fixture
def engines(adapted: Adapted) -> Iterator[Engines]:
    made: list[Engine] = []

    def make(*, unified: bool, cache_bytes: int = 0, **changes: object) -> Engine:
        params = replace(PARAMS, unified=unified, swa_full=adapted.kind.swa_full, **changes)
        made.append(Engine(adapted, params, cache_bytes))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


BOTH = pytest.mark.parametrize("unified", [True, False], ids=["unified", "partitioned"])


@BOTH
def test_requests_of_all_sets_at_once_get_the_answers_of_their_own_set(
    adapted: Adapted, engines: Engines, unified: bool
) -> None:
    engine = engines(unified=unified)
    prompt = words(1, 70)
    asked = {engine.add(prompt, adapters, n=25): adapters for adapters in (*SETS, *SETS)}
    engine.finish()
    for name, adapters in asked.items():
        adapted.check(prompt, engine.tokens[name], adapters)
    assert len({tuple(tokens) for tokens in engine.tokens.values()}) >= 4
    assert len(engine.switches) >= 5
    assert all(engine.switches), "llama.cpp no longer logs what the new graphs took"
    assert engine.runner.n_nodes, "llama.cpp no longer logs how many nodes the new graphs have"
    assert all(adapter.n_matrices for adapter in adapted.adapters), "llama.cpp no longer logs what it has loaded"


@BOTH
def test_guesses_beside_a_set_change_no_answer(adapted: Adapted, engines: Engines, unified: bool) -> None:
    if not adapted.kind.can_cut:
        pytest.skip("a wrong guess cannot be taken back")
    engine = engines(unified=unified, n_rows=15)
    prompt = [5, 6, 7, 8] * 20
    asked = {engine.add(prompt, adapters, n=60): adapters for adapters in SETS}
    engine.finish()
    for name, adapters in asked.items():
        adapted.check(prompt, engine.tokens[name], adapters)


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    kind = Kind(partial(write_mtp, agreement=0.9))
    yield from opened(kind, tmp_path_factory.mktemp("mtp"), has_mtp=True)


@BOTH
@pytest.mark.parametrize("drafts", ["model", "mtp"])
def test_drafts_without_the_adapters_change_no_answer(predicting: Adapted, unified: bool, drafts: str) -> None:
    engine = Engine(predicting, replace(PARAMS, unified=unified, n_rows=15), drafts=drafts)
    prompt = words(3, 60)
    asked = {engine.add(prompt, adapters, n=60): adapters for adapters in SETS}
    engine.finish()
    engine.close()
    for name, adapters in asked.items():
        predicting.check(prompt, engine.tokens[name], adapters)
    assert engine.n_drafted > 10
    assert engine.n_right > 10


@dataclass(frozen=True)
class Ask:
    """The next turn of a conversation, maybe with other adapters than before. Then some steps."""

    conversation: int
    adapters: AdapterSet
    n_cut: int
    n_new: int
    n_steps: int


asks = st.builds(
    Ask,
    conversation=st.integers(0, 2),
    adapters=st.sampled_from(SETS),
    n_cut=st.sampled_from([0, 0, 1, 10, 40]),
    n_new=st.integers(1, 50),
    n_steps=st.sampled_from([0, 1, 5, 20]),
)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    script=st.lists(asks, min_size=4, max_size=10),
    unified=st.booleans(),
    n_cells=st.sampled_from([256, 768]),
    cache_bytes=st.sampled_from([0, CACHE_BYTES]),
)
def test_any_conversations(adapted: Adapted, script: list[Ask], unified: bool, n_cells: int, cache_bytes: int) -> None:
    changes = {"unified": unified, "n_cells": n_cells if unified else PARAMS.n_cells}
    engine = Engine(adapted, replace(PARAMS, swa_full=adapted.kind.swa_full, **changes), cache_bytes)
    try:
        asked: dict[str, tuple[list[int], AdapterSet]] = {}
        last: dict[int, str] = {}
        for ask in script:
            name = last.get(ask.conversation)
            if name is not None and name not in engine.endings:
                continue
            held = [] if name is None else asked[name][0] + engine.tokens[name]
            prompt = held[: max(0, len(held) - ask.n_cut)] + words(ask.n_new, ask.n_new)
            prompt = prompt if len(prompt) < PARAMS.n_ctx - 20 else words(ask.conversation, ask.n_new)
            last[ask.conversation] = engine.add(prompt, ask.adapters)
            asked[last[ask.conversation]] = prompt, ask.adapters
            for _ in range(ask.n_steps):
                engine.step()
        engine.finish()
        for name, (prompt, adapters) in asked.items():
            adapted.check(prompt, engine.tokens[name], adapters)
    finally:
        engine.close()


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Model]:
    model = Model(tiny_models.write_attention(tmp_path / "model.gguf"), ModelParams())
    yield model
    model.close()


def refusal(model: Model, path: Path) -> str:
    with pytest.raises(ModelInvalid) as refused:
        Adapter(model, "model.gguf", "style", path)
    return refused.value.message


def test_a_file_that_is_no_adapter_is_refused_by_its_name(plain: Model, tmp_path: Path) -> None:
    message = refusal(plain, tmp_path / "model.gguf")
    assert message.startswith("The adapter style (model.gguf) of LORA cannot be used with model.gguf: ")
    assert "expect general.type to be 'adapter'" in message


def test_an_adapter_of_another_architecture_is_refused(plain: Model, tmp_path: Path) -> None:
    other = tiny_models.write_recurrent(tmp_path / "other.gguf")
    assert "arch mismatch" in refusal(plain, writer.write(tmp_path / "adapter.gguf", other))


def test_a_file_that_is_not_there_is_refused(plain: Model, tmp_path: Path) -> None:
    assert "No such file" in refusal(plain, tmp_path / "nowhere.gguf")


def test_an_adapter_is_read_through_a_descriptor(plain: Model, tmp_path: Path) -> None:
    path = writer.write(tmp_path / "adapter.gguf", tmp_path / "model.gguf")
    with path.open("rb") as file:
        path.unlink()
        Adapter(plain, "model.gguf", "style", path, file.fileno())
        assert not file.closed

"""Tests of a model's own MTP layer as the drafter: answers are those without it, and it sees what the model sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import request
from tests.mtp_models import write_mtp
from worker_gguf.engine.batch import Batch, Chunk
from worker_gguf.engine.drafter import DraftRequest
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Ended, Token
from worker_gguf.errors import ModelInvalid
from worker_gguf.llama.context import Context, DecodeFailed
from worker_gguf.llama.model import Model
from worker_gguf.llama.mtp import MOST_UNREAD, MtpDrafter
from worker_gguf.llama.runner import LlamaRunner

# As in test_kinds.py: in f32 and without flash attention, another order of sums changes no token.
PARAMS = ContextParams(
    n_ctx=256, n_parallel=3, n_cells=768, n_batch=128, n_ubatch=64, n_threads=1, n_threads_batch=1, unified=False,
    flash_attn="off", type_k="f32", type_v="f32", n_rows=30,
)  # fmt: skip
GREEDY = SamplingParams(temperature=0.0)


def words(seed: int, n: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 256, n)]


@pytest.fixture(scope="module", params=[0.0, 0.85, 1.0], ids=["bad", "good", "perfect"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Models whose MTP layer guesses at random, often right, and always right."""
    path = write_mtp(tmp_path_factory.mktemp("mtp") / "mtp.gguf", agreement=request.param)
    model = Model(path, ModelParams(has_mtp=True))
    yield model
    model.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_mtp(tmp_path_factory.mktemp("mtp") / "mtp.gguf", agreement=0.85)
    model = Model(path, ModelParams(has_mtp=True))
    yield model
    model.close()


@dataclass
class Engine:
    """A scheduler with the real runner, whose steps take the same time and whose guesses none."""

    model: Model
    params: ContextParams = PARAMS
    has_mtp: bool = True
    cache_bytes: int = 0
    tokens: dict[str, list[int]] = field(default_factory=dict)
    endings: dict[str, Ended] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)
    n_steps: int = 0
    n_drafted: int = 0
    n_right: int = 0

    def __post_init__(self) -> None:
        self.context = Context(self.model, self.params)
        self.runner = LlamaRunner(self.model, self.context)
        self.drafter = MtpDrafter.open(self.model, mtp_params(self.params), self.context) if self.has_mtp else None
        self.scheduler = Scheduler(
            self.runner.limits, max_queue=100, drafter=self.drafter, cache_bytes=self.cache_bytes
        )

    def add(self, prompt: list[int], n: int = 60, sampling: SamplingParams = GREEDY) -> str:
        name = f"r{len(self.tokens)}"
        self.tokens[name] = []
        self.scheduler.add(request(name, prompt, max_tokens=n, sampling=replace(sampling, ignore_eos=True)))
        return name

    def answers(self, *prompts: list[int], n: int = 60, sampling: SamplingParams = GREEDY) -> list[list[int]]:
        names = [self.add(prompt, n, sampling) for prompt in prompts]
        self.finish()
        return [self.tokens[name] for name in names]

    def finish(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        batch = self.scheduler.schedule()
        if batch is None:
            return False
        slots = self.scheduler.take_drafted().slots
        result = self.runner.run(batch)
        self._count(batch, slots)
        self.n_right += sum(len(sampled.tokens) - 1 for sampled in result.sampled if sampled.slot in slots)
        for update in self.scheduler.commit(batch, replace(result, decode_seconds=1.0, sample_seconds=0.0)):
            if isinstance(update, Token):
                self.tokens[update.sequence.id].append(update.token)
            else:
                assert update.error is None
                self.endings[update.sequence.id] = update
        return True

    def _count(self, batch: Batch, slots: frozenset[int]) -> None:
        self.n_steps += 1
        self.n_drafted += sum(chunk.n_outputs - 1 for chunk in batch.chunks if chunk.slot in slots)
        self.operations |= {type(operation).__name__ for operation in batch.operations}

    def close(self) -> None:
        if self.drafter is not None:
            self.drafter.close()
        self.context.close()


Engines = Callable[..., Engine]


@pytest.fixture
def engines() -> Iterator[Engines]:
    made: list[Engine] = []

    def make(*arguments: object, **changes: object) -> Engine:
        made.append(Engine(*arguments, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def mtp_params(params: ContextParams) -> ContextParams:
    return replace(params, n_batch=params.n_ubatch, n_rows=params.n_parallel)


SAMPLINGS = {
    "greedy": GREEDY,
    "sampled": SamplingParams(seed=5, temperature=0.7),
    "penalties": SamplingParams(seed=6, repeat_penalty=1.1, dry_multiplier=0.4),
    "hot": SamplingParams(seed=9, temperature=1.5, top_k=0),
}


@pytest.mark.parametrize("unified", [False, True], ids=["partitioned", "unified"])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=list(SAMPLINGS))
def test_answers_with_the_mtp_layer_are_those_without(
    any_model: Model, engines: Engines, sampling: SamplingParams, unified: bool
) -> None:
    params = replace(PARAMS, unified=unified)
    plain, engine = engines(any_model, replace(params, n_rows=3), has_mtp=False), engines(any_model, params)
    for n_prompts in (1, 4):  # four for three slots
        prompts = [words(seed, 10 + 30 * seed) for seed in range(n_prompts)]
        assert engine.answers(*prompts, sampling=sampling) == plain.answers(*prompts, sampling=sampling)
    assert engine.n_drafted > 0
    print(engine.n_drafted, engine.n_right, engine.n_steps, plain.n_steps)

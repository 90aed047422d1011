"""Tests of guessed tokens with the real runner: the answers are those of single steps, in fewer steps."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.fakes import request
from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.engine.params import ContextParams
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Token
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner

PARAMS = ContextParams(
    n_ctx=512, n_parallel=3, n_cells=1536, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1, unified=True
)
QUOTING = (
    "<|start_header_id|>user<|end_header_id|>\n\nRepeat after me: the cat sat on the mat and the cat sat on the mat "
    "and the cat sat on the mat and the cat<|eot_id|>"
)
PENALTIES = {"repeat_penalty": 1.1, "frequency_penalty": 0.2, "dry_multiplier": 0.4}


class _Run:
    """Generates with a scheduler whose steps all take the same time, so that guesses are always worth it."""

    def __init__(self, model: Model, n_rows: int) -> None:
        self.model = model
        self.context = Context(model, replace(PARAMS, n_rows=n_rows))
        self.runner = LlamaRunner(model, self.context, model.vocabulary.special)
        self.n_steps = self.n_right = 0

    def answers(self, prompt: list[int], samplings: list[SamplingParams], n: int) -> list[list[int]]:
        scheduler = Scheduler(self.runner.limits, eog=self.model.vocabulary.eog, max_queue=10)
        for i, sampling in enumerate(samplings):
            scheduler.add(request(f"r{i}", prompt, max_tokens=n, sampling=replace(sampling, ignore_eos=True)))
        tokens: dict[str, list[int]] = {f"r{i}": [] for i in range(len(samplings))}
        while (batch := scheduler.schedule()) is not None:
            for update in scheduler.commit(batch, self._step(batch)):
                if isinstance(update, Token):
                    tokens[update.sequence.id].append(update.token)
        return list(tokens.values())

    def _step(self, batch: Batch) -> StepResult:
        self.n_steps += 1
        result = self.runner.run(batch)
        self.n_right += sum(len(sampled.tokens) - 1 for sampled in result.sampled)
        return replace(result, decode_seconds=0.01, sample_seconds=0.0)


@pytest.mark.parametrize(
    "samplings",
    [
        [SamplingParams(temperature=0.0)],
        [SamplingParams(temperature=0.0, repeat_penalty=1.05)],
        [SamplingParams(seed=5, temperature=0.3)],
        [SamplingParams(seed=6, top_k=0, min_p=0.1)],
        [SamplingParams(seed=7, **PENALTIES)],  # type: ignore[arg-type]
        [SamplingParams(seed=9, mirostat=2)],
        [SamplingParams(temperature=0.0), SamplingParams(seed=8), SamplingParams(seed=9)],
    ],
    ids=["greedy", "greedy with a penalty", "sampled", "min_p", "penalties", "mirostat", "three at once"],
)
def test_answers_with_guesses_are_those_without(model: Model, samplings: list[SamplingParams]) -> None:
    prompt = model.vocabulary.tokenize(QUOTING, add_special=True, parse_special=True)
    plain, guessing = _Run(model, n_rows=3), _Run(model, n_rows=20)
    assert guessing.answers(prompt, samplings, 150) == plain.answers(prompt, samplings, 150)
    assert plain.n_right == 0


def test_an_answer_that_repeats_itself_takes_fewer_steps(model: Model) -> None:
    prompt = model.vocabulary.tokenize(QUOTING, add_special=True, parse_special=True)
    run = _Run(model, n_rows=20)
    run.answers(prompt, [SamplingParams(temperature=0.0)], 300)
    assert run.n_right > 50
    assert run.n_steps < 260

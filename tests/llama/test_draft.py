"""Tests of a real draft model: the answers are those without it, and it is asked only for what it has not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.fakes import request
from tests.similar_models import write_random_draft
from tests.tiny_models import write_recurrent
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.drafter import DraftRequest
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Token
from worker_gguf.errors import ModelInvalid
from worker_gguf.llama.context import Context
from worker_gguf.llama.draft import LlamaDrafter, check_pair
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner

PARAMS = ContextParams(
    n_ctx=512, n_parallel=3, n_cells=1536, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1, unified=False
)
PROMPT = "<|start_header_id|>user<|end_header_id|>\n\nTell me a long story.<|eot_id|><|start_header_id|>assistant"
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model with the vocabulary of the embedded one that guesses at random."""
    model = Model(write_random_draft(tmp_path_factory.mktemp("draft") / "random.gguf"), ModelParams())
    yield model
    model.close()


@dataclass
class Answered:
    tokens: list[list[int]]
    n_steps: int = 0
    n_drafted: int = 0
    n_right: int = 0


def prompt_of(model: Model, text: str = PROMPT) -> list[int]:
    return model.vocabulary.tokenize(text, add_special=True, parse_special=True)


def drafter_of(draft: Model, target: Model, **changes: int) -> LlamaDrafter:
    drafter = LlamaDrafter(draft, Context(draft, replace(PARAMS, **changes)), target.n_vocab)
    drafter.adopt(target.vocabulary.special)
    return drafter


def answer(model: Model, draft: Model | None, samplings: list[SamplingParams], n: int = 120) -> Answered:
    """Answer with steps that all take the same time, and drafts that take none, so that guesses are always worth it."""
    runner = LlamaRunner(model, Context(model, replace(PARAMS, n_rows=30)), model.vocabulary.special)
    scheduler = Scheduler(
        runner.limits,
        eog=model.vocabulary.eog,
        max_queue=10,
        drafter=drafter_of(draft, model) if draft else None,
    )
    for i, sampling in enumerate(samplings):
        prompt = prompt_of(model)[i:]  # of different lengths
        scheduler.add(request(f"r{i}", prompt, max_tokens=n, sampling=replace(sampling, ignore_eos=True)))
    answered = Answered([[] for _ in samplings])
    while (batch := scheduler.schedule()) is not None:
        slots = scheduler.take_drafted().slots
        result = runner.run(batch)
        answered.n_steps += 1
        answered.n_drafted += sum(chunk.n_outputs - 1 for chunk in batch.chunks if chunk.slot in slots)
        answered.n_right += sum(len(sampled.tokens) - 1 for sampled in result.sampled if sampled.slot in slots)
        for update in scheduler.commit(batch, replace(result, decode_seconds=1.0, sample_seconds=0.0)):
            if isinstance(update, Token):
                answered.tokens[int(update.sequence.id[1:])].append(update.token)
    return answered


SAMPLINGS = [
    [GREEDY],
    [SamplingParams(seed=5, temperature=0.7)],
    [SamplingParams(seed=6, repeat_penalty=1.1, dry_multiplier=0.4)],
    [GREEDY, SamplingParams(seed=8), GREEDY, SamplingParams(seed=9, temperature=1.5)],
]
NAMES = ["greedy", "sampled", "penalties", "four for three slots"]


@pytest.mark.parametrize("samplings", SAMPLINGS, ids=NAMES)
def test_answers_with_a_draft_model_are_those_without(
    model: Model, stranger: Model, samplings: list[SamplingParams]
) -> None:
    plain = answer(model, None, samplings)
    assert answer(model, model, samplings).tokens == plain.tokens
    assert answer(model, stranger, samplings).tokens == plain.tokens


def test_nearly_all_guesses_of_the_model_itself_are_right(model: Model) -> None:
    itself = answer(model, model, [GREEDY])
    assert itself.n_drafted > 80
    assert itself.n_right > 0.95 * itself.n_drafted
    assert itself.n_steps < 40


def test_few_guesses_of_a_model_with_random_weights_are_right(model: Model, stranger: Model) -> None:
    random = answer(model, stranger, [GREEDY])
    assert random.n_drafted > 0
    assert random.n_right < 0.2 * random.n_drafted


def test_guesses_are_the_most_likely_tokens_of_the_draft_model(model: Model) -> None:
    prompt = prompt_of(model)
    greedy = answer(model, None, [GREEDY], n=9).tokens[0]
    drafts = drafter_of(model, model).draft([DraftRequest(0, prompt, 8), DraftRequest(2, prompt, 3)])
    assert drafts.guesses == {0: tuple(greedy[:8]), 2: tuple(greedy[:3])}
    assert [step.n_rows for step in drafts.steps] == [2, 2, 2, 1, 1, 1, 1, 1]
    assert drafts.seconds > 0


def test_only_tokens_that_were_not_read_are_computed(model: Model) -> None:
    prompt, drafter = prompt_of(model), drafter_of(model, model)
    first = drafter.draft([DraftRequest(1, prompt, 4)]).guesses[1]
    again = drafter.draft([DraftRequest(1, [*prompt, *first[:2], 7, 8], 1)])
    assert again.steps[0].n_prompt == 1
    other = drafter_of(model, model).draft([DraftRequest(0, [*prompt, *first[:2], 7, 8], 1)])
    assert again.guesses[1] == other.guesses[0]
    assert drafter.draft([DraftRequest(1, prompt, 4)]).guesses[1] == first


def test_a_long_prompt_is_read_in_pieces_and_others_get_their_guesses_meanwhile(model: Model) -> None:
    drafter = drafter_of(model, model, n_ubatch=32)
    long, short = [*prompt_of(model)] * 4, prompt_of(model)[:8]
    calls = []
    while True:
        drafts = drafter.draft([DraftRequest(0, long, 2), DraftRequest(1, short, 2)])
        calls.append(drafts)
        if not drafts.missing:
            break
    assert len(calls) > 2
    assert all(len(drafts.guesses[1]) == 2 and 0 not in drafts.guesses for drafts in calls[:-1])
    assert all(step.n_prompt + step.n_rows <= 32 for drafts in calls for step in drafts.steps)
    assert calls[-1].guesses[0] == drafter_of(model, model).draft([DraftRequest(0, long, 2)]).guesses[0]


def test_the_end_of_generation_is_never_guessed(model: Model) -> None:
    drafter = drafter_of(model, model)
    ended = prompt_of(model, "<|start_header_id|>user<|end_header_id|>\n\nWhat is the capital of France?<|eot_id|>")
    ended += prompt_of(model, "<|start_header_id|>assistant<|end_header_id|>\n\nThe capital of France is Paris.")[1:]
    assert drafter.draft([DraftRequest(0, ended, 5)]).guesses == {}


def test_a_draft_model_that_fails_is_not_asked_again(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    drafter = drafter_of(model, model)
    assert drafter.draft([DraftRequest(0, [1 << 20], 2)]).guesses == {}  # a token that it does not have
    assert drafter.draft([DraftRequest(0, [1, 2, 3], 2)]).guesses
    too_long = [1] * (PARAMS.n_ctx + 40)
    for _ in range(6):
        failed = drafter.draft([DraftRequest(1, too_long, 2)])
    assert failed.guesses == {}
    assert drafter.draft([DraftRequest(0, [1, 2, 3], 2)]).guesses == {}
    assert [record.getMessage() for record in caplog.records].count("draft model failed") == 1
    with pytest.raises(ModelInvalid, match="could not be computed"):
        drafter.warm_up(1)


def refusal(draft_path: Path, target_path: Path = MODEL_PATH) -> str:
    target, draft = Model(target_path, ModelParams()), Model(draft_path, ModelParams())
    try:
        with pytest.raises(ModelInvalid) as refused:
            check_pair(target, target_path.name, draft, draft_path.name)
    finally:
        draft.close()
        target.close()
    assert draft_path.name in refused.value.message
    assert target_path.name in refused.value.message
    return refused.value.message


def test_a_model_may_draft_for_a_copy_of_itself(model: Model, stranger: Model) -> None:
    check_pair(model, "a", model, "b")
    check_pair(model, "a", stranger, "b")


def test_a_recurrent_model_can_neither_draft_nor_have_a_draft_model(tmp_path: Path) -> None:
    path = write_recurrent(tmp_path / "recurrent.gguf")
    assert "recurrent.gguf has a recurrent memory" in refusal(path)
    assert "recurrent.gguf has a recurrent memory" in refusal(MODEL_PATH, path)

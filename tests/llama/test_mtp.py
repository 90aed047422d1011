"""Tests of a model's own MTP layer as the drafter: answers are those without it, and it sees what the model sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.fakes import request
from tests.mtp_models import Architecture, write_mtp
from worker_gguf.engine.batch import Batch, Chunk, StepResult
from worker_gguf.engine.drafter import DraftRequest, Drafts
from worker_gguf.engine.params import MTP_UNREAD, ContextParams, ModelParams
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Ended, Token
from worker_gguf.errors import ModelInvalid
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.mtp import MtpDrafter
from worker_gguf.llama.runner import LlamaRunner

# As in test_kinds.py: in f32 and without flash attention, another order of sums changes no token.
PARAMS = ContextParams(
    n_ctx=256, n_parallel=3, n_cells=768, n_batch=128, n_ubatch=64, n_threads=1, n_threads_batch=1, unified=False,
    flash_attn="off", type_k="f32", type_v="f32", n_rows=30,
)  # fmt: skip
GREEDY = SamplingParams(temperature=0.0)


def words(seed: int, n: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 256, n)]


ARCHITECTURES: list[Architecture] = ["glm4moe", "deepseek2"]
KINDS = [(architecture, agreement) for architecture in ARCHITECTURES for agreement in (0.0, 0.85, 1.0)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]} {kind[1]}")
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Models whose MTP layer guesses at random, often right, and always right."""
    yield from opened(tmp_path_factory, *request.param)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    yield from opened(tmp_path_factory, request.param, 0.9)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def perfect(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    yield from opened(tmp_path_factory, request.param, 1.0)


def opened(tmp_path_factory: pytest.TempPathFactory, architecture: Architecture, agreement: float) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("mtp") / "mtp.gguf"
    model = Model(write_mtp(path, architecture=architecture, agreement=agreement), ModelParams(has_mtp=True))
    yield model
    model.close()


@dataclass
class Engine:
    """A scheduler with the real runner, whose steps take the same time and whose guesses none."""

    model: Model
    params: ContextParams = PARAMS
    has_mtp: bool = True
    cache_bytes: int = 0
    own: ContextParams | None = None
    tokens: dict[str, list[int]] = field(default_factory=dict)
    endings: dict[str, Ended] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)
    n_steps: int = 0
    n_drafted: int = 0
    n_right: int = 0

    def __post_init__(self) -> None:
        self.context = Context(self.model, self.params)
        self.runner = LlamaRunner(self.model, self.context, self.model.vocabulary.special)
        self.drafter = (
            MtpDrafter.open(self.model, self.own or mtp_params(self.params), self.context, 0) if self.has_mtp else None
        )
        if self.drafter is not None:
            self.drafter.adopt(self.model.vocabulary.special)
        self.scheduler = Scheduler(
            self.runner.limits,
            eog=self.model.vocabulary.eog,
            max_queue=100,
            drafter=self.drafter,
            cache_bytes=self.cache_bytes,
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
            elif isinstance(update, Ended):
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
    assert plain.n_drafted == 0


def guesses_of(model: Model, tokens: Sequence[int], n: int, unknown: Sequence[int] = ()) -> list[int]:
    """Return the guesses after `tokens`, computed in new contexts: all tokens at once, then one guess after another.

    The hidden rows of the tokens before the positions `unknown` count as zero.
    """
    params = replace(PARAMS, n_parallel=1, n_cells=PARAMS.n_ctx, n_batch=256, n_ubatch=256)
    target = Context(model, params)
    own = Context(model, params, is_mtp=True)
    target.give_hidden_rows()
    own.give_hidden_rows()
    before: Floats = np.zeros((len(tokens), own.n_embd), np.float32)
    if len(tokens) > 1:
        target.decode([Chunk(0, 0, list(tokens[:-1]), n_outputs=1)])
        before[1:] = target.hidden_rows(len(tokens) - 1)
    before[list(unknown)] = 0
    guesses: list[int] = []
    chunk = Chunk(0, 0, list(tokens), n_outputs=1)
    for _ in range(n):
        guesses.append(int(own.decode([chunk], before)[0].argmax()))
        before = own.hidden_rows(len(chunk.tokens))[-1:].copy()
        chunk = Chunk(0, chunk.start + len(chunk.tokens), guesses[-1:], n_outputs=1)
    own.close()
    target.close()
    return guesses


class Decoded:
    """Contexts of a model and its MTP layer, and what the slots hold. Nothing is drawn."""

    def __init__(self, model: Model, **changes: object) -> None:
        params = replace(PARAMS, **changes)
        self.context = Context(model, params)
        self.drafter = MtpDrafter.open(model, mtp_params(params), self.context, 0)
        self.drafter.adopt(model.vocabulary.special)

    def decode(self, slot: int, start: int, tokens: list[int]) -> None:
        self.context.decode([Chunk(slot, start, tokens, n_outputs=1)])

    def guesses(self, slot: int, tokens: list[int], n: int = 3) -> list[int]:
        return list(self.drafter.draft([DraftRequest(slot, tokens, n)]).guesses.get(slot, ()))

    def close(self) -> None:
        self.drafter.close()
        self.context.close()


@pytest.fixture(params=[False, True], ids=["partitioned", "unified"])
def decoded(request: pytest.FixtureRequest, model: Model) -> Iterator[Decoded]:
    made = Decoded(model, unified=request.param)
    yield made
    made.close()


def test_every_guess_is_that_of_a_context_that_read_everything_at_once(model: Model, engines: Engines) -> None:
    engine = engines(model)
    asked: list[tuple[list[int], tuple[int, ...]]] = []
    assert engine.drafter is not None
    draft = engine.drafter.draft

    def noting(requests: Sequence[DraftRequest], most_read: int | None = None) -> Drafts:
        drafts = draft(requests, most_read)
        asked.extend((list(each.tokens), drafts.guesses.get(each.slot, ())) for each in requests)
        return drafts

    engine.drafter.draft = noting  # type: ignore[method-assign]
    engine.answers(words(1, 5), words(2, 70), words(3, 180), n=50)
    assert 0 < engine.n_right < engine.n_drafted
    assert len(asked) > 30
    for tokens, guesses in asked[:: len(asked) // 30]:
        assert list(guesses) == guesses_of(model, tokens, len(guesses))


def test_a_layer_that_is_always_right_makes_an_answer_in_few_steps(perfect: Model, engines: Engines) -> None:
    engine = engines(perfect)
    engine.answers(words(1, 20), n=100)
    assert engine.n_right == engine.n_drafted > 20
    assert engine.n_steps < 40


def test_tokens_are_read_although_nobody_asks_for_guesses(decoded: Decoded, model: Model) -> None:
    tokens = words(4, 30)
    decoded.decode(1, 0, tokens)
    for token in words(5, 2 * MTP_UNREAD + 10):
        decoded.decode(1, len(tokens), [token])
        tokens.append(token)
    assert decoded.guesses(1, [*tokens, 7]) == guesses_of(model, [*tokens, 7], 3)


def test_after_forced_tokens_the_layer_still_knows_the_sequence(model: Model, engines: Engines) -> None:
    engine = engines(model)
    assert engine.drafter is not None
    draft, run = engine.drafter.draft, engine.runner.run
    asked: list[tuple[list[int], tuple[int, ...]]] = []

    def noting(requests: Sequence[DraftRequest], most_read: int | None = None) -> Drafts:
        drafts = draft(requests, most_read)
        asked.extend((list(each.tokens), drafts.guesses.get(each.slot, ())) for each in requests)
        return drafts

    def forcing(batch: Batch) -> StepResult:
        """Three tokens follow the drawn one in every third step."""
        result = run(batch)
        if engine.n_steps % 3:
            return result
        sampled = [replace(each, tokens=(*each.tokens, 40, 41, 42)) for each in result.sampled]
        return replace(result, sampled=tuple(sampled))

    engine.drafter.draft = noting  # type: ignore[method-assign]
    engine.runner.run = forcing  # type: ignore[method-assign]
    engine.answers(words(1, 20), words(2, 70), n=60)
    assert sum(tokens[-5:-2] == [40, 41, 42] for tokens, _ in asked) > 0
    assert all(tokens[-3:] != [40, 41, 42] for tokens, _ in asked)
    for tokens, guesses in asked:
        assert list(guesses) == guesses_of(model, tokens, len(guesses))


def test_wrong_guesses_leave_nothing_behind(decoded: Decoded, model: Model) -> None:
    tokens = words(6, 40)
    decoded.decode(0, 0, tokens)
    for token in range(1, 6):
        guesses = decoded.guesses(0, [*tokens, token])
        assert guesses == guesses_of(model, [*tokens, token], 3)
        decoded.decode(0, len(tokens), [token, *guesses])
        tokens += [token, *guesses[: token % 4]]
        decoded.context.truncate(0, len(tokens))


def test_several_sequences_are_guessed_for_together(decoded: Decoded, model: Model) -> None:
    prompts = {2: words(57, 100), 0: words(8, 9), 1: words(9, 64)}
    for slot, tokens in prompts.items():
        decoded.decode(slot, 0, tokens[:-1])
    drafts = decoded.drafter.draft([DraftRequest(slot, tokens, slot + 1) for slot, tokens in prompts.items()])
    wanted = {slot: tuple(guesses_of(model, tokens, slot + 1)) for slot, tokens in prompts.items()}
    assert drafts.guesses == wanted
    assert [step.n_rows for step in drafts.steps][-3:] == [3, 2, 1]
    assert drafts.seconds > 0


def test_a_copied_prefix_is_copied_in_the_mtp_context(decoded: Decoded, model: Model) -> None:
    shared, rest = words(10, 90), words(11, 20)
    decoded.decode(0, 0, [*shared, *words(12, 30)])
    decoded.context.copy(0, 2, len(shared))
    decoded.decode(2, len(shared), rest)
    tokens = [*shared, *rest, 5]
    # The hidden row at the end of the prefix is not kept.
    assert decoded.guesses(2, tokens) == guesses_of(model, tokens, 3, unknown=[len(shared)])
    tokens = [*shared, *words(12, 30), 5]
    assert decoded.guesses(0, tokens) == guesses_of(model, tokens, 3)


def test_a_prefix_that_was_cut_goes_on(decoded: Decoded, model: Model) -> None:
    shared, rest = words(13, 90), words(14, 20)
    decoded.decode(0, 0, [*shared, *words(15, 30)])
    decoded.context.truncate(0, len(shared))
    decoded.decode(0, len(shared), rest)
    tokens = [*shared, *rest, 5]
    assert decoded.guesses(0, tokens) == guesses_of(model, tokens, 3, unknown=[len(shared)])


def test_after_a_load_only_the_tokens_since_then_are_seen(decoded: Decoded, model: Model) -> None:
    tokens = words(16, 90)
    decoded.decode(0, 0, tokens)
    state = decoded.context.save(0)
    assert state is not None
    decoded.decode(1, 0, words(17, 120))
    assert decoded.context.load(1, state)
    assert len(decoded.guesses(1, [*tokens, 5])) == 3
    decoded.decode(1, len(tokens), [5, 6, 7])
    assert len(decoded.guesses(1, [*tokens, 5, 6, 7, 8])) == 3


def test_conversations_that_come_back_are_answered_as_without(model: Model, engines: Engines) -> None:
    plain, engine = engines(model, has_mtp=False, cache_bytes=1 << 24), engines(model, cache_bytes=1 << 24)
    for turn in range(3):
        for seed in range(5):
            prompt = words(seed, 60 + 30 * turn)
            assert engine.answers(prompt, n=20) == plain.answers(prompt, n=20)
    assert engine.answers(*[words(9, 50) + words(seed, 9) for seed in range(3)]) == plain.answers(
        *[words(9, 50) + words(seed, 9) for seed in range(3)]
    )
    assert {"Load", "Copy", "Truncate"} <= engine.operations
    assert engine.n_right > 0


def test_a_cancelled_request_leaves_the_others_as_they_were(model: Model, engines: Engines) -> None:
    prompts = [words(seed, 40) for seed in (21, 22, 23)]
    plain = engines(model, has_mtp=False).answers(*prompts)
    engine = engines(model)
    names = [engine.add(prompt) for prompt in prompts]
    for _ in range(6):
        engine.step()
    engine.scheduler.finish(names[1], "cancelled")
    engine.finish()
    assert [engine.tokens[names[0]], engine.tokens[names[2]]] == [plain[0], plain[2]]
    assert engine.answers(prompts[1]) == [plain[1]]


@pytest.mark.parametrize("unified", [False, True], ids=["partitioned", "unified"])
def test_a_full_context_ends_an_answer_as_without(model: Model, engines: Engines, unified: bool) -> None:
    params = replace(PARAMS, unified=unified, n_cells=PARAMS.n_ctx if unified else PARAMS.n_cells)
    prompts = [words(31, 200), words(32, 5), words(33, 20)]
    plain, engine = engines(model, params, has_mtp=False), engines(model, params)
    assert engine.answers(*prompts, n=500) == plain.answers(*prompts, n=500)
    assert engine.n_drafted > 0


def test_too_little_memory_for_guesses_costs_guesses_only(model: Model, engines: Engines) -> None:
    short = replace(mtp_params(PARAMS), n_cells=PARAMS.n_ctx, unified=True)
    plain, engine = engines(model, has_mtp=False), engines(model, own=short)
    assert engine.drafter is not None
    prompts = [words(seed, 150) for seed in (41, 42, 43)]
    assert engine.answers(*prompts) == plain.answers(*prompts)
    assert engine.drafter.draft([DraftRequest(0, [1, 2, 3], 1)]).guesses


def test_a_layer_that_fails_is_not_asked_again(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    decoded = Decoded(model)
    assert len(decoded.guesses(0, [1, 2, 3])) == 3
    for _ in range(2):
        assert decoded.guesses(0, [1 << 20]) == []  # a token that the vocabulary does not have
    assert decoded.guesses(0, [1, 2, 3]) == []
    decoded.decode(0, 0, [1, 2, 3])
    assert [record.getMessage() for record in caplog.records].count("MTP layer failed") == 1
    with pytest.raises(ModelInvalid, match="Unset SPECULATION"):
        decoded.drafter.warm_up(1)
    decoded.close()


def test_the_end_of_generation_is_never_guessed(tmp_path: Path) -> None:
    model = Model(write_mtp(tmp_path / "mtp.gguf", agreement=1.0), ModelParams(has_mtp=True))
    first, second, third = guesses_of(model, [1, 2, 3], 3)
    model.vocabulary.adopt(256, [third])
    decoded = Decoded(model)
    assert decoded.guesses(0, [1, 2, 3], 8) == [first, second]
    decoded.close()
    model.close()


def test_a_model_that_was_loaded_without_its_layer_has_no_context_for_it(tmp_path: Path) -> None:
    model = Model(write_mtp(tmp_path / "mtp.gguf", with_layer=False), ModelParams())
    context = Context(model, PARAMS)
    context.decode([Chunk(0, 0, [1, 2, 3], n_outputs=1)])
    context.close()
    model.close()

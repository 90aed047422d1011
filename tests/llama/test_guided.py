"""Tests of answers that are held to a grammar, with the real runner and scheduler and the embedded model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from worker_gguf.constraints.tokens import TokenTable
from worker_gguf.engine.batch import Batch, Chunk, Open
from worker_gguf.engine.params import ContextParams
from worker_gguf.engine.request import Constraint, GenerationRequest, SamplingParams, Thinking
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Ended, Token
from worker_gguf.errors import InvalidRequest
from worker_gguf.llama.context import Context
from worker_gguf.llama.guides import Guides
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner
from worker_gguf.llama.vocabulary import Vocabulary

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "été"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PERSON = Constraint("json_schema", json.dumps(SCHEMA))
HELLO = "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


class Answers:
    """The texts of requests that run together, and what the steps did."""

    def __init__(self, model: Model, runner: LlamaRunner, requests: list[GenerationRequest]) -> None:
        scheduler = Scheduler(runner.limits, eog=model.vocabulary.eog, max_queue=100, prefill_chunk=64)
        for request in requests:
            runner.prepare(request)
            scheduler.add(request)
        self.tokens: dict[str, list[Token]] = {request.id: [] for request in requests}
        self.ends: dict[str, Ended] = {}
        self.n_steps = self.n_constrained = 0
        self.mask_seconds = 0.0
        while not scheduler.is_idle:
            batch = scheduler.schedule()
            assert batch is not None
            result = runner.run(batch)
            assert result.error is None
            self.n_steps += 1
            self.n_constrained += result.n_constrained
            self.mask_seconds += result.mask_seconds
            for update in scheduler.commit(batch, result):
                if isinstance(update, Token):
                    self.tokens[update.sequence.id].append(update)
                elif isinstance(update, Ended):
                    self.ends[update.sequence.id] = update
        self._model = model
        for slot in scheduler.memory.slots:
            scheduler.memory.empty(slot, save=False)
        runner.run(Batch(scheduler.memory.take_operations(), ()))

    def text(self, request_id: str) -> str:
        return self._model.vocabulary.text(token.token for token in self.tokens[request_id])

    def reason(self, request_id: str) -> str:
        return self.ends[request_id].reason


Run = Callable[..., Answers]


@pytest.fixture(params=[0, 32], ids=["one row", "guesses"])
def run(request: pytest.FixtureRequest, model: Model) -> Iterator[Run]:
    params = ContextParams(
        n_ctx=512, n_parallel=4, n_cells=2048, n_batch=256, n_ubatch=256, n_threads=1, n_threads_batch=1, unified=True,
        n_rows=request.param,
    )  # fmt: skip
    context = Context(model, params)
    runner = LlamaRunner(model, context, model.vocabulary.special)
    yield lambda *requests: Answers(model, runner, list(requests))
    context.close()


@pytest.fixture
def ask(model: Model) -> Callable[..., GenerationRequest]:
    prompt = tuple(model.vocabulary.tokenize(HELLO, add_special=True, parse_special=True))

    def made(request_id: str, temperature: float = 0.0, seed: int = 1, **asked: Any) -> GenerationRequest:
        sampling = SamplingParams(temperature=temperature, seed=seed)
        return GenerationRequest(request_id, prompt, sampling, **{"max_tokens": 300, **asked})

    return made


Ask = Callable[..., GenerationRequest]


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.5])
def test_answers_match_their_schema_beside_free_ones(run: Run, ask: Ask, temperature: float) -> None:
    held = [ask(f"held{seed}", temperature, seed, constraint=PERSON) for seed in range(12)]
    free = [ask("free", max_tokens=30)]
    answers = run(*held[:6], *free, *held[6:])
    for request in held:
        assert answers.reason(request.id) == "stop"
        jsonschema.validate(json.loads(answers.text(request.id)), SCHEMA)
    assert answers.text("free") == run(*free).text("free")
    assert answers.n_constrained == sum(len(answers.tokens[request.id]) for request in held)
    assert answers.mask_seconds > 0


def test_forced_tokens_take_no_steps(run: Run, ask: Ask) -> None:
    constraint = Constraint("lark", r'start: "{\"temperature_in_celsius\": " /[0-9]/ "}"')
    answers = run(ask("a", constraint=constraint))
    assert answers.text("a").startswith('{"temperature_in_celsius": ')
    assert answers.n_steps < len(answers.tokens["a"])


def test_log_probabilities_come_with_every_token_though_none_is_forced(run: Run, ask: Ask) -> None:
    shown, plain = (run(ask("a", constraint=PERSON, top_logprobs=top)) for top in (2, None))
    assert all(token.logprob is not None and len(token.logprob.top) == 2 for token in shown.tokens["a"])
    jsonschema.validate(json.loads(shown.text("a")), SCHEMA)
    assert json.loads(plain.text("a")).keys() == json.loads(shown.text("a")).keys()


def test_an_answer_that_is_cut_is_the_beginning_of_a_match(run: Run, ask: Ask) -> None:
    whole, cut = run(ask("a", constraint=PERSON)), run(ask("a", constraint=PERSON, max_tokens=7))
    assert cut.reason("a") == "length"
    assert len(cut.tokens["a"]) == 7
    assert whole.text("a").startswith(cut.text("a"))


def test_penalties_and_biases_count_under_a_grammar(run: Run, ask: Ask, model: Model) -> None:
    constraint = Constraint("choice", '["yes", "no"]')
    answer = run(ask("a", constraint=constraint)).text("a")
    begins = [t for t in range(model.n_vocab) if model.vocabulary.piece(t)[:1] == answer[:1].encode()]
    asked = ask("a", constraint=constraint)
    biases = tuple((token, -100.0) for token in begins)
    biased = replace(asked, sampling=replace(asked.sampling, logit_bias=biases, repeat_penalty=1.3))
    assert {answer, run(biased).text("a")} == {"yes", "no"}


def test_a_bias_that_bans_all_that_matches_is_an_error(run: Run, ask: Ask, model: Model) -> None:
    (token,) = model.vocabulary.tokenize("7", add_special=False, parse_special=False)
    asked = ask("a", constraint=Constraint("regex", "[7]+"), top_logprobs=0)
    banned = [t for t in range(model.n_vocab) if set(model.vocabulary.piece(t)) == {ord("7")}]
    assert token in banned
    biased = replace(asked, sampling=replace(asked.sampling, logit_bias=tuple((t, float("-inf")) for t in banned)))
    assert run(biased).reason("a") == "error"


def test_min_tokens_does_not_outlast_the_grammar(run: Run, ask: Ask) -> None:
    # After the second one the grammar may go on with nothing, but only the mask shows it.
    for constraint in (
        Constraint("choice", '["yes", "no"]'),
        Constraint("lark", 'start: ("yes" | "no") nothing?\nnothing: ""'),
    ):
        answers = run(ask("a", constraint=constraint, min_tokens=50))
        assert answers.text("a") in ("yes", "no")
        assert answers.reason("a") == "stop"


def test_a_grammar_that_dead_ends_ends_its_answer_and_no_other(run: Run, ask: Ask) -> None:
    dead = Constraint("lark", 'start: "a" NOTHING\nNOTHING: /b/ & /c/')
    answers = run(ask("dead", constraint=dead), ask("held", constraint=PERSON), ask("free", max_tokens=20))
    assert isinstance(answers.ends["dead"].error, InvalidRequest)
    assert answers.reason("held") == "stop"
    assert answers.reason("free") in ("stop", "length")


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("budget", [0, 5, None])
def test_thinking_comes_before_the_match(run: Run, ask: Ask, budget: int | None, *, is_open: bool) -> None:
    thinking = Thinking("<think>", ("</think>",), is_open=is_open, budget=budget)
    answers = run(ask("a", constraint=PERSON, thinking=thinking))
    before, end, after = answers.text("a").rpartition("</think>")
    if answers.reason("a") == "stop":
        assert bool(end) or not is_open
        jsonschema.validate(json.loads(after), SCHEMA)
    else:
        assert (is_open, budget, end) == (True, None, "")  # the embedded model never closes it
    if budget is not None and end:
        n_thought = len(before.removeprefix("<think>").split())
        assert n_thought <= 2 * budget + 2


def test_a_budget_without_a_grammar_leaves_the_answer_free(run: Run, ask: Ask) -> None:
    thinking = Thinking("<think>", ("</think>",), is_open=True, budget=3, message=" Stop.")
    text = run(ask("a", thinking=thinking)).text("a")
    assert " Stop.</think>" in text
    assert run(ask("a", thinking=thinking, top_logprobs=0)).text("a") == text


def test_the_vocabulary_is_read_once_ahead_or_by_the_first_request(
    model: Model, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Vocabulary] = []
    table = Vocabulary.table

    def noted(vocabulary: Vocabulary, eog: Iterable[int]) -> TokenTable:
        reads.append(vocabulary)
        return table(vocabulary, eog)

    monkeypatch.setattr(Vocabulary, "table", noted)
    for reads_ahead in (True, False):
        reads.clear()
        guides = Guides(model)
        guides.adopt(model.vocabulary.special)
        if reads_ahead:
            guides.read()
        for seed in range(3):
            guides.prepare(ask(f"a{seed}", constraint=PERSON))
        assert len(reads) == 1


@pytest.mark.parametrize("banned", [("help",), ("HELP", "assist"), ("!",), ("Hello", "Hi", "how")])
def test_banned_texts_never_appear(run: Run, ask: Ask, banned: tuple[str, ...]) -> None:
    plain = run(ask("a", max_tokens=30)).text("a")
    assert any(text.lower() in plain.lower() for text in banned)
    answers = run(*(ask(f"a{seed}", 1.2 * (seed % 2), seed, max_tokens=30, banned_texts=banned) for seed in range(6)))
    for seed in range(6):
        assert not any(text.lower() in answers.text(f"a{seed}").lower() for text in banned)


def test_banned_texts_and_a_grammar_both_count(run: Run, ask: Ask) -> None:
    constraint = Constraint("choice", '["yes", "no", "yesterday"]')
    for banned, left in ((("no",), {"yes", "yesterday"}), (("YES",), {"no"})):
        answers = run(*(ask(f"a{seed}", 1.5, seed, constraint=constraint, banned_texts=banned) for seed in range(9)))
        for seed in range(9):
            # An answer that has begun so that it could only become a banned one is an error.
            assert answers.reason(f"a{seed}") == ("stop" if answers.text(f"a{seed}") in left else "error")


def test_no_ngram_is_repeated(run: Run, ask: Ask) -> None:
    request = ask("a", max_tokens=120)
    asked = replace(request, sampling=replace(request.sampling, no_repeat_ngram_size=2, ignore_eos=True))
    tokens = [*request.prompt, *(token.token for token in run(asked).tokens["a"])]
    answer_from = len(request.prompt) - 1
    pairs = list(pairwise(tokens))
    assert len(set(pairs[answer_from:])) == len(pairs[answer_from:])
    assert not set(pairs[answer_from:]) & set(pairs[:answer_from])


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(run: Run, ask: Ask) -> None:
    plain = [token.token for token in run(ask("a", max_tokens=20)).tokens["a"]]
    answers = run(ask("a", max_tokens=20, stop_tokens=frozenset({plain[3]})))
    assert [token.token for token in answers.tokens["a"]] == plain[: plain.index(plain[3])]
    assert answers.reason("a") == "stop"
    longer = run(ask("a", max_tokens=20, stop_tokens=frozenset({plain[3]}), min_tokens=10))
    assert plain[3] not in [token.token for token in longer.tokens["a"]][:10]


def test_ignore_eos_does_not_outlast_the_grammar(run: Run, ask: Ask) -> None:
    asked = ask("a", constraint=PERSON)
    answers = run(replace(asked, sampling=replace(asked.sampling, ignore_eos=True)))
    assert answers.reason("a") == "stop"
    jsonschema.validate(json.loads(answers.text("a")), SCHEMA)


def test_a_banned_text_is_never_drawn_though_nothing_else_is_left(run: Run, ask: Ask) -> None:
    letters = tuple("abcdefghijklmnopqrstuvwxyz0123456789 .,!?")
    answers = run(*(ask(f"a{seed}", 1.0 * seed, max_tokens=12, banned_texts=letters) for seed in range(2)))
    for seed in range(2):
        assert not set(answers.text(f"a{seed}").lower()) & set(letters)


def test_what_a_later_row_may_draw_depends_on_the_tokens_before_it(model: Model, ask: Ask) -> None:
    """A model opens its thinking with a token that was guessed. The next row must not end the answer."""
    start = "<|start_header_id|>"
    (opening,) = model.vocabulary.tokenize(start, add_special=False, parse_special=True)
    params = ContextParams(
        n_ctx=128, n_parallel=1, n_cells=128, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1, unified=True,
        n_rows=2,
    )  # fmt: skip
    context = Context(model, params)
    runner = LlamaRunner(model, context, model.vocabulary.special)
    ends = tuple((token, 500.0) for token in model.vocabulary.eog)
    asked = ask("a", constraint=PERSON, thinking=Thinking(start, ("</think>",)))
    asked = replace(asked, sampling=replace(asked.sampling, logit_bias=((opening, 1000.0), *ends)))
    prompt = list(asked.prompt)
    runner.prepare(asked)
    chunk = Chunk(0, 0, [*prompt, opening], n_outputs=2)
    (sampled,) = runner.run(Batch((Open(0, asked, prompt),), (chunk,))).sampled
    assert sampled.tokens[0] == opening
    assert len(sampled.tokens) == 2
    assert sampled.tokens[1] not in model.vocabulary.eog
    context.close()

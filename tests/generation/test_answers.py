"""Tests of the answers in progress: what a step of several tokens for one sequence becomes."""

from __future__ import annotations

import pytest

from tests.fakes import request
from worker_gguf.generation.answers import Answers
from worker_gguf.engine.commands import Address
from worker_gguf.generation.events import Delta, Event, Finished
from worker_gguf.generation.progress import Progress
from worker_gguf.engine.sequence import Sequence
from worker_gguf.engine.stats import EngineStats
from worker_gguf.generation.stream import EventStream
from worker_gguf.engine.updates import Ended, Token

TEXT = "one two three four"


class Step:
    """One request whose tokens are the characters of its answer."""

    def __init__(self, *stop: str) -> None:
        self.stats = EngineStats()
        self.answers = Answers(lambda token: bytes([token]), self.stats, lambda: 1.0)
        self.sequence = Sequence(request("a", [1, 2, 3], stop=stop), 0)
        stream = EventStream(("a",), lambda _: None, (Progress(0.0, 3),))
        self.answers.open(self.sequence.request, Address(stream, 0))

    def draw(self, text: str) -> list[bool]:
        """Draw the tokens of one step. Returns, for each token, whether it completes a stop text."""
        tokens = list(text.encode())
        self.sequence.tokens += tokens
        return [self.answers.token(Token(self.sequence, token, None)) for token in tokens]

    def end(self, reason: str) -> tuple[str, Finished]:
        assert self.answers.ended(Ended(self.sequence, reason)) is not None  # type: ignore[arg-type]
        events: list[Event] = [event for items in self.answers.collect().values() for event in items[0]]
        last = events[-1]
        assert isinstance(last, Finished)
        return "".join(event.text for event in events if isinstance(event, Delta)), last


async def test_tokens_after_a_stop_text_in_the_same_step_are_not_part_of_the_answer() -> None:
    step = Step("two")
    ends = step.draw(TEXT)
    assert [index for index, is_end in enumerate(ends) if is_end] == [TEXT.index("two") + 2]
    text, last = step.end("stop")
    assert text == "one "
    assert (last.reason, last.stop) == ("stop", "two")
    assert last.usage.completion_tokens == step.stats.completion_tokens == len("one two")


@pytest.mark.parametrize("n_first", range(len(TEXT) + 1))
async def test_a_stop_text_that_spans_two_steps_ends_the_answer_at_the_same_place(n_first: int) -> None:
    step = Step("two")
    ends = step.draw(TEXT[:n_first]) + step.draw(TEXT[n_first:])
    assert sum(ends) == 1
    text, last = step.end("stop")
    assert (text, last.usage.completion_tokens) == ("one ", len("one two"))


async def test_a_stop_text_in_the_step_that_reaches_the_limit_of_tokens_is_the_reason() -> None:
    step = Step("two")
    step.draw(TEXT)
    _, last = step.end("length")
    assert last.reason == "stop"


async def test_an_answer_ends_once() -> None:
    step = Step()
    step.draw("one")
    assert step.end("length")[0] == "one"
    assert step.answers.ended(Ended(step.sequence, "cancelled")) is None
    assert step.draw("two") == [False] * 3
    assert step.answers.collect() == {}

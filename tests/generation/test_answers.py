"""Tests of the answers in progress: what a step of several tokens for one sequence becomes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.fakes import request, step
from tests.threaded_link import Numerals
from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.request import LineLimits
from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import QueueFull
from worker_gguf.generation.answers import Answers
from worker_gguf.generation.events import Delta, Event, Finished
from worker_gguf.generation.progress import Progress
from worker_gguf.generation.stream import EventStream
from worker_gguf.link.messages import Ending, ErrorReport, Step

TEXT = "one two three four"


def drawn(number: int, text: str, *logprobs: Logprob) -> Step:
    """Return the report of a step that drew the characters of a text."""
    tokens = list(text.encode())
    return step(numbers=[number] * len(tokens), tokens=tokens, logprobs=list(logprobs), admitted=[(number, 1)])


class Answering:
    """One request whose tokens are the characters of its answer."""

    def __init__(self, *stop: str, lines: LineLimits | None = None) -> None:
        self.stats = EngineStats()
        self.answers = Answers(Numerals(lambda token: bytes([token])), self.stats)
        stream = EventStream(("a",), lambda _: None, (Progress(0.0, 3),))
        self.progress = stream.progress[0]
        self.number = self.answers.open(request("a", [1, 2, 3], stop=stop, lines=lines), stream, 0, None)

    def draw(self, text: str) -> list[int]:
        """Draw the tokens of one step. Returns the numbers of the answers that a stop text ended."""
        return self.answers.step(drawn(self.number, text))

    def end(self, reason: str, n_generated: int = 9) -> object:
        return self.answers.ended(Ending(self.number, reason, n_generated, 1), 3.0, 1)  # type: ignore[arg-type]

    def told(self) -> tuple[str, Finished]:
        events: list[Event] = [event for items in self.answers.collect().values() for event in items[0]]
        last = events[-1]
        assert isinstance(last, Finished)
        return "".join(event.text for event in events if isinstance(event, Delta)), last


async def test_tokens_after_a_stop_text_in_the_same_step_are_not_part_of_the_answer() -> None:
    answering = Answering("two")
    assert answering.draw(TEXT) == [answering.number]
    text, last = answering.told()
    assert text == "one "
    assert (last.reason, last.stop) == ("stop", "two")
    assert last.usage.completion_tokens == answering.stats.completion_tokens == len("one two")


async def test_a_line_that_is_indented_too_little_ends_the_answer_before_its_text() -> None:
    answering = Answering("two", lines=LineLimits(min_indent=2))
    assert answering.draw("a\n  b\nt") == []
    assert answering.draw("x") == [answering.number]
    text, last = answering.told()
    assert (text, last.reason, last.stop) == ("a\n  b\n", "stop", None)


async def test_the_end_of_a_line_ends_an_answer_that_takes_too_long() -> None:
    answering = Answering(lines=LineLimits(max_s=0.5))
    assert answering.draw("a\nb") == []
    later = replace(drawn(answering.number, "c\nd"), time_s=2.6)
    assert answering.answers.step(later) == [answering.number]
    assert answering.told()[0] == "a\nbc\n"


@pytest.mark.parametrize("n_first", range(len(TEXT) + 1))
async def test_a_stop_text_that_spans_two_steps_ends_the_answer_at_the_same_place(n_first: int) -> None:
    answering = Answering("two")
    assert answering.draw(TEXT[:n_first]) + answering.draw(TEXT[n_first:]) == [answering.number]
    text, last = answering.told()
    assert (text, last.usage.completion_tokens) == ("one ", len("one two"))


async def test_a_stop_text_in_the_step_that_reaches_the_limit_of_tokens_is_the_reason() -> None:
    answering = Answering("two")
    answering.draw(TEXT)
    assert answering.end("length") is None
    assert answering.told()[1].reason == "stop"


async def test_an_answer_ends_once() -> None:
    answering = Answering()
    answering.draw("one")
    assert answering.end("length") == "length"
    assert answering.told()[0] == "one"
    assert answering.end("cancelled") is None
    assert answering.draw("two") == []
    assert answering.answers.collect() == {}


async def test_usage_counts_the_end_of_generation_token_and_the_cached_tokens() -> None:
    answering = Answering()
    answering.draw("ab")
    answering.end("stop", n_generated=3)
    usage = answering.told()[1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (3, 3, 1)
    assert answering.progress.completion_tokens == 2
    assert (answering.progress.admitted_s, answering.progress.first_token_s) == (1.0, 2.0)


async def test_the_cached_tokens_of_an_answer_that_a_stop_text_ends_are_those_of_its_last_slot() -> None:
    answering = Answering("b")
    answering.answers.step(step(admitted=[(answering.number, 2)]))
    answering.answers.step(step(admitted=[(answering.number, 0)], admitted_s=1.5))
    answering.answers.step(step(numbers=[answering.number], tokens=[ord("b")]))
    assert answering.told()[1].usage.cached_tokens == answering.stats.cached_tokens == 0
    assert answering.progress.admitted_s == 1.0


async def test_log_probabilities_get_the_bytes_of_their_tokens() -> None:
    answering = Answering()
    answering.answers.step(drawn(answering.number, "a", Logprob(97, -0.5, ((97, -0.5), (98, -1.0)))))
    (items,) = answering.answers.collect().values()
    (delta,) = items[0]
    assert isinstance(delta, Delta)
    (logprob,) = delta.logprobs
    assert (logprob.piece, logprob.top) == (b"a", ((97, b"a", -0.5), (98, b"b", -1.0)))


async def test_a_request_that_waited_too_long_is_told_when_to_come_again() -> None:
    answering = Answering()
    refused = ErrorReport(kind="QueueFull", message="It waited too long.", retry_after_s=1)
    answering.answers.ended(Ending(answering.number, "error", 0, 0, refused), 3.0, 17)
    error = answering.told()[1].error
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == 17


async def test_every_token_is_in_one_delta_though_its_text_is_held_back() -> None:
    answering = Answering("two")
    answering.draw("one tw")
    answering.end("length")
    events = [event for items in answering.answers.collect().values() for event in items[0]]
    deltas = [event for event in events if isinstance(event, Delta)]
    assert bytes(token for delta in deltas for token in delta.tokens) == b"one tw"
    assert deltas[-1].text == "tw"


async def test_only_the_control_tokens_that_are_shown_are_part_of_the_text() -> None:
    pieces = Numerals(lambda token: bytes([token]) if token < 128 else b"")
    pieces.control_piece = lambda token: b"<%d>" % token
    answers = Answers(pieces, EngineStats())
    stream = EventStream(("a",), lambda _: None, (Progress(0.0, 3),))
    number = answers.open(request("a", shown=frozenset({200})), stream, 0, None)
    answers.step(step(numbers=[number] * 4, tokens=[97, 200, 201, 98], admitted=[(number, 0)]))
    events = [event for items in answers.collect().values() for event in items[0]]
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "a<200>b"

"""Tests of responses and of their events, against OpenAI's schemas and OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.scripted_parser import ScriptedParser
from worker_gguf.errors import DeadlineExceeded
from worker_gguf.generation.events import Delta, Event, Finished, TokenLogprob, Usage
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.dialect import Wording
from worker_gguf.protocol.rendering import Heading, Outline
from worker_gguf.protocol.responses.errors import RESPONSES_DIALECT
from worker_gguf.protocol.responses.rendering import ResponsesRendering
from worker_gguf.protocol.responses.requests import parse_response

Conforms = Callable[[str, Any], None]

HEADING = Heading("resp_ab", 1_700_000_000, "m", "fp")
STOP = Finished("stop", Usage(10, 9, 4))
LENGTH = Finished("length", Usage(10, 9, 4))
CALL = '!find({"a":1})'
FIND = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def delta(text: str, *logprobs: TokenLogprob) -> Delta:
    return Delta(text, (1,), logprobs)


def rendering(**fields: Any) -> ResponsesRendering:
    call = parse_response({"input": "Hello", "tools": [FIND], **fields}, Defaults())
    return ResponsesRendering(call, Outline(HEADING, ScriptedParser, [(1, 2)]))


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Take a stream apart as a client does, and hold it to its form."""
    found = []
    for event in stream.decode("ascii").split("\n\n")[:-1]:
        name, data = event.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        found.append(body)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def streamed(made: ResponsesRendering, *steps: Sequence[Event]) -> list[dict[str, Any]]:
    return events_of(b"".join(made.stream(0, step) for step in steps) + made.stream_end())


def whole(made: ResponsesRendering, *events: Event) -> dict[str, Any]:
    made.collect(0, events)
    answer: dict[str, Any] = made.answer()
    return answer


def names(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


FULL: list[list[Event]] = [[delta("~h")], [delta("m~")], [delta("Hel")], [delta("lo")], [delta(CALL)], [STOP]]


def test_the_events_of_reasoning_a_text_and_a_call_come_in_openais_order() -> None:
    assert names(streamed(rendering(), *FULL)) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_the_stream_ends_with_the_response_that_a_whole_answer_is() -> None:
    last = streamed(rendering(), *FULL)[-1]["response"]
    answer = whole(rendering(), *(event for step in FULL for event in step))
    assert {**last, "completed_at": 0} == {**answer, "completed_at": 0}
    thought, text, call = answer["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert text["content"][0]["text"] == "Hello"
    assert (call["name"], call["arguments"], call["call_id"]) == ("find", '{"a":1}', "call_0")
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 4


@pytest.mark.parametrize("steps", [FULL, [[STOP]], [[delta("a"), LENGTH]], [[delta("~h"), LENGTH]]])
def test_every_event_and_answer_conforms(conforms: Conforms, steps: list[list[Event]]) -> None:
    events = streamed(rendering(), *steps)
    for event in events:
        conforms(EVENT_SCHEMAS[event["type"].removeprefix("response.")], event)
    conforms("Response", whole(rendering(), *(event for step in steps for event in step)))


EVENT_SCHEMAS = {
    "created": "ResponseCreatedEvent",
    "in_progress": "ResponseInProgressEvent",
    "completed": "ResponseCompletedEvent",
    "incomplete": "ResponseIncompleteEvent",
    "failed": "ResponseFailedEvent",
    "output_item.added": "ResponseOutputItemAddedEvent",
    "output_item.done": "ResponseOutputItemDoneEvent",
    "content_part.added": "ResponseContentPartAddedEvent",
    "content_part.done": "ResponseContentPartDoneEvent",
    "output_text.delta": "ResponseTextDeltaEvent",
    "output_text.done": "ResponseTextDoneEvent",
    "reasoning_text.delta": "ResponseReasoningTextDeltaEvent",
    "reasoning_text.done": "ResponseReasoningTextDoneEvent",
    "function_call_arguments.delta": "ResponseFunctionCallArgumentsDeltaEvent",
    "function_call_arguments.done": "ResponseFunctionCallArgumentsDoneEvent",
}


def test_openais_client_puts_the_response_together() -> None:
    state: ResponseStreamState[None] = ResponseStreamState(text_format=openai.omit, input_tools=openai.omit)
    for event in streamed(rendering(), *FULL):
        state.handle_event(EVENT.validate_python(event))
    response = state._completed_response
    assert response is not None
    assert response.output_text == "Hello"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]


def test_an_answer_without_anything_has_an_empty_text() -> None:
    assert names(streamed(rendering(), [STOP]))[2:-1] == [
        *("output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done")
    ]
    (item,) = whole(rendering(), STOP)["output"]
    assert item["content"][0]["text"] == ""


def test_an_answer_that_is_cut_is_incomplete() -> None:
    last = streamed(rendering(max_output_tokens=9), [delta("a")], [LENGTH])[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["max_output_tokens"] == 9
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_failure_ends_the_stream_with_what_was_written() -> None:
    made = rendering()
    failed = Finished("error", Usage(10, 1, 0), error=DeadlineExceeded("Too late."))
    data = made.stream(0, [delta("a")]) + made.stream(0, [failed])
    assert made.error is not None
    ending = made.failure(Wording(made.error, "req"))
    assert ending is not None
    events = events_of(data + ending)
    assert names(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "failed"]
    response = events[-1]["response"]
    assert response["error"] == {"code": "server_error", "message": "Too late."}
    assert response["output"][0]["content"][0]["text"] == "a"


def test_a_failure_before_the_first_event_is_left_to_the_dialect() -> None:
    error = DeadlineExceeded("Too late.")
    assert rendering().failure(Wording(error, "")) is None
    (event,) = events_of(RESPONSES_DIALECT.error_ending(error))
    assert (event["type"], event["code"], event["message"]) == ("error", "deadline_exceeded", "Too late.")


def test_log_probabilities_are_those_of_the_text() -> None:
    thought, text = TokenLogprob(1, b"h", -0.5), TokenLogprob(2, b"a", -0.25, ((2, b"a", -0.25),))
    made = rendering(top_logprobs=1)
    events = streamed(made, [delta("~h", thought)], [delta("~", thought)], [delta("a", text)], [STOP])
    (shown,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert shown["logprobs"] == [{"token": "a", "logprob": -0.25, "top_logprobs": [{"token": "a", "logprob": -0.25}]}]
    assert events[-1]["response"]["output"][1]["content"][0]["logprobs"][0]["bytes"] == [97]


@pytest.mark.parametrize("text", ['"', "\\", "\x00", "şehir", "\u2028", "data: [DONE]"])
def test_any_text_comes_back(text: str) -> None:
    events = streamed(rendering(), [delta("-" + text)], [STOP])
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "-" + text


def test_what_the_request_said_comes_back() -> None:
    said = {"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "reasoning": {"effort": "low"}}
    answer = whole(rendering(**said), delta("a"), STOP)
    assert answer["instructions"] == "Be brief."
    assert answer["metadata"] == {"a": "b"}
    assert answer["temperature"] == 0.5
    assert answer["reasoning"] == {"effort": "low", "summary": None}
    assert answer["tools"][0]["name"] == "find"


def tokens_of(response: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each text of a response, and the tokens whose log-probabilities it has."""
    texts = [item["content"][0] for item in response["output"] if item["type"] == "message"]
    return [(text["text"], "".join(logprob["token"] for logprob in text["logprobs"])) for text in texts]


@pytest.mark.parametrize("text", ['Hi!find({"a":1})Yes', "~hm~Hi", "A~b~C", '!find({"a":1})', "Hi!find("])
@pytest.mark.parametrize("n_at_once", [1, 3, 100])
def test_each_text_has_the_logprobs_of_its_own_tokens(text: str, n_at_once: int) -> None:
    deltas = [delta(letter, TokenLogprob(1, letter.encode(), -0.5)) for letter in text]
    steps = [deltas[at : at + n_at_once] for at in range(0, len(deltas), n_at_once)]
    last = streamed(rendering(top_logprobs=0), *steps, [STOP])[-1]["response"]
    answer = whole(rendering(top_logprobs=0), *deltas, STOP)
    assert tokens_of(last) == tokens_of(answer)
    assert all(shown == tokens for shown, tokens in tokens_of(answer))
    assert {**last, "completed_at": 0} == {**answer, "completed_at": 0}


def test_the_logprobs_of_a_text_that_is_no_part_of_the_answer_are_those_of_the_last_text() -> None:
    stop = delta("", TokenLogprob(1, b"#", -0.5))
    letter = delta("a", TokenLogprob(1, b"a", -0.5))
    for events, shown in (([letter, stop], [("a", "a#")]), ([stop], [("", "#")]), ([delta(CALL), stop], [])):
        assert tokens_of(whole(rendering(top_logprobs=0), *events, STOP)) == shown
        steps = [[event] for event in events]
        assert tokens_of(streamed(rendering(top_logprobs=0), *steps, [STOP])[-1]["response"]) == shown

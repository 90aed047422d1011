"""Tests of messages and of the events that build them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.scripted_parser import ScriptedParser
from worker_gguf.errors import DeadlineExceeded
from worker_gguf.generation.events import Delta, Event, Finished, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.markup.parts import NewParser, Part, ToolCall
from worker_gguf.protocol.anthropic.rendering import MessageRendering
from worker_gguf.protocol.rendering import Heading, Outline

HEADING = Heading("msg_ab", 1_700_000_000, 'a "model"', "fp")
PROMPT = tuple(range(10))
STOP = Finished("stop", Usage(10, 9, 4))
LENGTH = Finished("length", Usage(10, 9, 4))
USAGE = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 9,
    "output_tokens_details": {"thinking_tokens": 0},
}


class Calls:
    """A parser that takes each text for the arguments of a call."""

    is_reasoning = False
    has_half_call = False

    def feed(self, text: str) -> Sequence[Part]:
        return (ToolCall(0, "c1", "find", text),)

    def end(self) -> Sequence[Part]:
        return ()


def delta(text: str) -> Delta:
    return Delta(text, (1,))


def rendering(parser: NewParser = ScriptedParser, max_tokens: int | None = 9) -> MessageRendering:
    made = MessageRendering(Outline(HEADING, parser, [PROMPT]), max_tokens)
    made.progress = (Progress(0.0, 10, cached_tokens=4, completion_tokens=1),)
    return made


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Take a stream apart as a client does, and hold it to its form: names, indices, one open block at most."""
    found = []
    index, is_open = -1, False
    for event in stream.decode("ascii").split("\n\n")[:-1]:
        name, data = event.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        match body["type"]:
            case "content_block_start":
                index += 1
                assert (body["index"], is_open) == (index, False)
                is_open = True
            case "content_block_delta":
                assert (body["index"], is_open) == (index, True)
            case "content_block_stop":
                assert (body["index"], is_open) == (index, True)
                is_open = False
            case "message_delta":
                assert not is_open
        found.append(body)
    return found


def streamed(made: MessageRendering, *steps: Sequence[Event]) -> list[dict[str, Any]]:
    return events_of(b"".join(made.stream(0, step) for step in steps) + made.stream_end())


def whole(made: MessageRendering, *events: Event) -> dict[str, Any]:
    made.collect(0, events)
    answer: dict[str, Any] = made.answer()
    return answer


def built(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Build a message of events as the SDK does."""
    message: dict[str, Any] = {}
    arguments = ""
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
                arguments = ""
            case "content_block_delta":
                block, change = message["content"][event["index"]], event["delta"]
                match change["type"]:
                    case "text_delta":
                        block["text"] += change["text"]
                    case "thinking_delta":
                        block["thinking"] += change["thinking"]
                    case "signature_delta":
                        block["signature"] = change["signature"]
                    case "input_json_delta":
                        arguments += change["partial_json"]
                        if event["index"] == len(message["content"]) - 1 and arguments.endswith("}"):
                            block["input"] = json.loads(arguments)
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    return message


def test_the_events_of_a_text() -> None:
    events = streamed(rendering(), [delta("Hel")], [delta('"lo"\u2028')], [STOP])
    assert [event["type"] for event in events] == [
        *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    start = events[0]["message"]
    assert start == {
        "id": "msg_ab",
        "type": "message",
        "role": "assistant",
        "model": 'a "model"',
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE | {"output_tokens": 1},
    }
    assert events[2]["content_block"] == {"type": "text", "text": ""}
    assert [event["delta"] for event in events[3:5]] == [
        {"type": "text_delta", "text": "Hel"},
        {"type": "text_delta", "text": '"lo"\u2028'},
    ]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == USAGE


@pytest.mark.parametrize(
    "steps",
    [
        ["Hello"],
        ["~Hm, ", "well.~", "I ", "look.", '!find({"a":', "1})", "!go({})"],
        ["~Hm.~", "!go({})"],
        ['~Hm, well.~I look.!find({"a":1})!go({})'],
        list('~Hm.~Yes. !find({"a":"b"})'),
    ],
)
def test_a_stream_builds_the_whole_message(steps: list[str]) -> None:
    events: list[Event] = [*map(delta, steps), STOP]
    message = whole(rendering(), *events)
    assert built(streamed(rendering(), *([event] for event in events))) == message
    assert built(streamed(rendering(), events)) == message


def test_the_blocks_of_an_answer_that_thinks_and_calls() -> None:
    message = whole(rendering(), *map(delta, ("~", "Hm.~", "I look.", '!find({"a":1})', "!go({})")), STOP)
    thinking, text, find, go = message["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Hm.")
    assert text == {"type": "text", "text": "I look."}
    assert (find["type"], find["name"], find["input"]) == ("tool_use", "find", {"a": 1})
    assert (go["type"], go["name"], go["input"]) == ("tool_use", "go", {})
    assert find["id"] != go["id"]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] == 1


def test_a_signature_is_of_its_thinking() -> None:
    def signature(*texts: str) -> str:
        thinking: dict[str, Any] = whole(rendering(), *map(delta, texts), STOP)["content"][0]
        assert thinking["signature"]
        return str(thinking["signature"])

    assert signature("~Hm.~x") == signature("~H", "m.~", "y") != signature("~Ha.~x")


def test_a_call_begins_with_an_empty_input() -> None:
    events = streamed(rendering(), [delta('!find({"a":1})')], [STOP])
    assert events[2]["content_block"] == {
        "type": "tool_use",
        "id": events[2]["content_block"]["id"],
        "name": "find",
        "input": {},
    }
    assert events[3]["delta"] == {"type": "input_json_delta", "partial_json": '{"a":1}'}


def test_an_answer_without_text_has_no_block() -> None:
    assert whole(rendering(), STOP)["content"] == []
    types = [event["type"] for event in streamed(rendering(), [STOP])]
    assert types == ["message_start", "ping", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("", {}),
        ('{"a":1}', {"a": 1}),
        ("[1]", {"arguments": [1]}),
        ('{"a":', {"arguments": '{"a":'}),
        ('{"a":1e999}', {"arguments": '{"a":1e999}'}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
    ids=["none", "object", "list", "half", "infinite", "deep"],
)
def test_arguments_that_are_no_object_become_a_field_of_one(arguments: str, shown: dict[str, Any]) -> None:
    (call,) = whole(rendering(Calls), delta(arguments), STOP)["content"]
    assert call["input"] == shown


@pytest.mark.parametrize(
    ("ending", "max_tokens", "reason", "stop"),
    [
        (STOP, 9, "end_turn", None),
        (Finished("stop", Usage(10, 9, 4), stop="END"), 9, "stop_sequence", "END"),
        (LENGTH, 9, "max_tokens", None),
        (LENGTH, 20, "model_context_window_exceeded", None),
        (LENGTH, None, "model_context_window_exceeded", None),
        (Finished("length", Usage(10, 0, 4)), 0, "max_tokens", None),
    ],
)
def test_the_reason_of_the_end(ending: Finished, max_tokens: int | None, reason: str, stop: str | None) -> None:
    message = whole(rendering(max_tokens=max_tokens), delta("x"), ending)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)
    last = streamed(rendering(max_tokens=max_tokens), [delta("x"), ending])[-2]
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": stop}


def test_an_error_ends_the_stream_without_an_end_of_the_message() -> None:
    made = rendering()
    error = Finished("error", Usage(10, 1, 0), error=DeadlineExceeded("Too late."))
    events = streamed(made, [delta("x")], [error])
    assert [event["type"] for event in events][-1] == "content_block_delta"
    assert isinstance(made.error, DeadlineExceeded)

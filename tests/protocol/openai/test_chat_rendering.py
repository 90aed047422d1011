"""Tests of reasoning and calls in the answers of /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.scripted_parser import ScriptedParser
from worker_gguf.generation.events import Delta, Event, Finished, TokenLogprob, Usage
from worker_gguf.markup.parts import ToolCall
from worker_gguf.protocol.openai.chat_rendering import ChatRendering
from worker_gguf.protocol.rendering import Heading

HEADING = Heading("chatcmpl-1", 1_700_000_000, "m", "fp")
STOP = Finished("stop", Usage(10, 9, 4))
CALL = '!find({"a":1})'


def delta(text: str, n_tokens: int = 1) -> Delta:
    return Delta(text, (1,) * n_tokens)


def rendering(**options: Any) -> ChatRendering:
    return ChatRendering(HEADING, new_parser=ScriptedParser, **options)


def chunks_of(made: ChatRendering, *batches: Sequence[Event]) -> list[dict[str, Any]]:
    data = b"".join(made.stream(0, batch) for batch in batches) + made.stream_end()
    lines = data.decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line and line != "data: [DONE]"]


def deltas_of(made: ChatRendering, *batches: Sequence[Event]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks_of(made, *batches)][1:-1]


def whole(made: ChatRendering, *events: Event) -> dict[str, Any]:
    made.collect(0, events)
    choice: dict[str, Any] = made.answer()["choices"][0]
    return choice


def test_reasoning_has_both_of_its_names() -> None:
    assert deltas_of(rendering(), [delta("~h")], [delta("m")], [delta("~ok"), STOP]) == [
        {"reasoning_content": "h", "reasoning": "h"},
        {"reasoning_content": "m", "reasoning": "m"},
        {"content": "ok"},
    ]
    message = whole(rendering(), delta("~hm~ok"), STOP)["message"]
    assert (message["reasoning_content"], message["reasoning"], message["content"]) == ("hm", "hm", "ok")


@pytest.mark.parametrize("text", ['"', "\\", "\x00text\x00", "şehir", "\u2028", "\ud800"])
def test_any_reasoning_comes_back(text: str) -> None:
    made = ChatRendering(Heading("x", 1, "\x00text\x00", "f"), new_parser=ScriptedParser)
    made.stream(0, [delta("~")])
    (chunk,) = (json.loads(line[6:]) for line in made.stream(0, [delta(text[:1])]).decode().split("\n\n") if line)
    assert chunk["choices"][0]["delta"] == {"reasoning_content": text[:1], "reasoning": text[:1]}
    assert chunk["model"] == "\x00text\x00"


def test_text_of_one_step_is_one_chunk_for_each_kind() -> None:
    batch = [delta("~a"), delta("b"), delta("~"), delta("c"), delta("d")]
    assert deltas_of(rendering(), batch, [STOP]) == [
        {"reasoning_content": "ab", "reasoning": "ab"},
        {"content": "cd"},
    ]


def test_a_call_comes_as_openai_sends_it() -> None:
    assert deltas_of(rendering(), [delta(CALL)], [delta("!go({})"), STOP]) == [
        {
            "tool_calls": [
                {"index": 0, "id": "call_0", "type": "function", "function": {"name": "find", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
        {"tool_calls": [{"index": 1, "id": "call_1", "type": "function", "function": {"name": "go", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]


def test_a_name_that_comes_with_arguments_is_sent_before_them() -> None:
    class Eager(ScriptedParser):
        def feed(self, text: str) -> Sequence[Any]:
            named, piece = super().feed(text)
            assert isinstance(named, ToolCall)
            assert isinstance(piece, ToolCall)
            return [named._replace(arguments=piece.arguments)]

    made = ChatRendering(HEADING, new_parser=Eager)
    first, second = (change["tool_calls"][0] for change in deltas_of(made, [delta(CALL)], [STOP]))
    assert (first["function"]["arguments"], second) == ("", {"index": 0, "function": {"arguments": '{"a":1}'}})


def test_the_older_form_of_a_call() -> None:
    chunks = chunks_of(rendering(is_legacy=True), [delta(CALL)], [STOP])
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:]] == [
        {"function_call": {"name": "find", "arguments": ""}},
        {"function_call": {"arguments": '{"a":1}'}},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    choice = whole(rendering(is_legacy=True), delta(CALL), STOP)
    assert choice["message"]["function_call"] == {"name": "find", "arguments": '{"a":1}'}
    assert choice["finish_reason"] == "function_call"
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        (CALL, "stop", "tool_calls"),
        (CALL, "length", "length"),
        ('!find({"a":)', "stop", "stop"),
        (CALL + "!go({)", "stop", "stop"),
        ("!go()", "stop", "stop"),
        ("ok", "stop", "stop"),
    ],
)
def test_calls_are_the_reason_only_if_all_of_them_are_whole(text: str, reason: Any, expected: str) -> None:
    end = Finished(reason, Usage(1, 1, 0))
    assert chunks_of(rendering(), [delta(text), end])[-1]["choices"][0]["finish_reason"] == expected
    assert whole(rendering(), delta(text), end)["finish_reason"] == expected


def test_tokens_of_the_reasoning_are_counted() -> None:
    events = [delta("~"), delta("a", 3), delta("b", 2), delta("~"), delta("ok", 4)]
    streamed, collected = rendering(include_usage=True), rendering()
    # The mark that opens the reasoning comes before it, and the one that closes it belongs to it.
    assert chunks_of(streamed, *([event] for event in events), [STOP])[-1]["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 6
    }
    collected.collect(0, [*events, STOP])
    assert collected.answer()["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    in_one_step = rendering()
    in_one_step.stream(0, [*events, STOP])
    tallies = {made.tallies[0].reasoning_tokens for made in (streamed, collected, in_one_step)}
    assert tallies == {6}


def test_calls_are_counted_for_each_choice() -> None:
    made = rendering(n=2)
    made.stream(0, [delta(CALL), delta(CALL)])
    made.collect(1, [delta("ok"), STOP])
    assert [tally.tool_calls for tally in made.tallies] == [2, 0]


def test_hidden_reasoning_has_no_log_probabilities() -> None:
    token = TokenLogprob(1, b"x", -0.5)
    made = rendering(logprobs=True, hides_reasoning=True)
    events = [
        Delta("~", (1,), (token,)),
        Delta("a", (1,), (token,)),
        Delta("~", (1,), (token,)),
        Delta("b", (1,), (token,)),
    ]
    assert len(whole(made, *events, STOP)["logprobs"]["content"]) == 2


def test_answers_with_calls_conform(conforms: Callable[[str, Any], None]) -> None:
    for is_legacy in (False, True):
        for chunk in chunks_of(rendering(is_legacy=is_legacy, include_usage=True), [delta("Hm" + CALL)], [STOP]):
            conforms("CreateChatCompletionStreamResponse", chunk)
        made = rendering(is_legacy=is_legacy)
        made.collect(0, [delta(CALL), STOP])
        conforms("CreateChatCompletionResponse", made.answer())

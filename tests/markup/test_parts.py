"""Tests of the parts of an answer: a client gets what the parser returns, streamed or whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.scripted_parser import ScriptedParser
from worker_gguf.generation.events import Delta, Event, Finished, TokenLogprob, Usage
from worker_gguf.markup.parts import Content, ContentParser
from worker_gguf.protocol.openai.chat_rendering import ChatRendering
from worker_gguf.protocol.openai.completion_rendering import CompletionRendering
from worker_gguf.protocol.rendering import Heading

HEADING = Heading("id", 1, "m", "fp")
END = Finished("stop", Usage(3, 5, 0))


def delta(text: str, *logprobs: TokenLogprob) -> Delta:
    return Delta(text, (1,), logprobs)


def streamed(rendering: ChatRendering, *batches: Sequence[Event]) -> list[dict[str, Any]]:
    data = b"".join(rendering.stream(0, batch) for batch in batches) + rendering.stream_end()
    lines = data.decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line and line != "data: [DONE]"]


def joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that a client joins from the chunks."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": {}}
    for chunk in chunks:
        change = chunk["choices"][0]["delta"]
        message["content"] += change.get("content", "")
        message["reasoning_content"] += change.get("reasoning_content", "")
        for call in change.get("tool_calls", ()):
            known = message["tool_calls"].setdefault(call["index"], {"arguments": ""})
            known |= {name: call[name] for name in ("id", "type") if name in call}
            known |= {"name": call["function"]["name"]} if "name" in call["function"] else {}
            known["arguments"] += call["function"]["arguments"]
    return message


TEXT = '~I think~Yes!find({"a":1})!go({})'
CALLS = {
    0: {"id": "call_0", "type": "function", "name": "find", "arguments": '{"a":1}'},
    1: {"id": "call_1", "type": "function", "name": "go", "arguments": "{}"},
}


def test_the_plain_parser_takes_all_text_as_content_and_nothing_as_no_part() -> None:
    parser = ContentParser()
    assert parser.feed("~a!") == (Content("~a!"),)
    assert parser.feed("") == parser.end() == ()


def test_streamed_parts_reach_the_client_apart_however_the_text_is_cut() -> None:
    for size in (1, 3, len(TEXT)):
        pieces = [[delta(TEXT[i : i + size])] for i in range(0, len(TEXT), size)]
        chunks = streamed(ChatRendering(HEADING, new_parser=ScriptedParser), *pieces, [END])
        message = joined(chunks)
        assert (message["content"], message["reasoning_content"]) == ("Yes", "I think")
        assert message["tool_calls"] == CALLS
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_whole_answer_has_the_same_parts() -> None:
    rendering = ChatRendering(HEADING, new_parser=ScriptedParser)
    rendering.collect(0, [delta(TEXT), END])
    (choice,) = rendering.answer()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("Yes", "I think")
    flat = [call | call["function"] for call in choice["message"]["tool_calls"]]
    assert [{name: call[name] for name in ("id", "type", "name", "arguments")} for call in flat] == list(CALLS.values())


def test_content_is_null_next_to_calls_and_empty_without_any() -> None:
    for text, content in (("!go({})", None), ("", "")):
        rendering = ChatRendering(HEADING, new_parser=ScriptedParser)
        rendering.collect(0, [delta(text), END])
        assert rendering.answer()["choices"][0]["message"]["content"] == content


def test_text_that_is_held_back_comes_out_at_the_end_before_the_last_chunk() -> None:
    chunks = streamed(ChatRendering(HEADING, new_parser=ScriptedParser), [delta("a!b")], [END])
    assert joined(chunks)["content"] == "a!b"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_an_answer_that_ran_out_of_tokens_in_a_call_says_length() -> None:
    chunks = streamed(
        ChatRendering(HEADING, new_parser=ScriptedParser), [delta("!go({})")], [Finished("length", Usage(1, 1, 0))]
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_go_with_the_first_part_or_with_empty_content() -> None:
    token = TokenLogprob(1, b"x", -0.5)
    rendering = ChatRendering(HEADING, logprobs=True, new_parser=ScriptedParser)
    chunks = streamed(rendering, [delta("ab", token)], [delta("!", token)], [END])
    with_tokens = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [choice["delta"] for choice in with_tokens] == [{"content": "a"}, {"content": ""}]
    assert joined(chunks)["content"] == "ab!"


def test_each_choice_has_a_parser_of_its_own() -> None:
    rendering = ChatRendering(HEADING, n=2, new_parser=ScriptedParser)
    rendering.collect(0, [delta("~a"), END])
    rendering.collect(1, [delta("b"), END])
    first, second = (choice["message"] for choice in rendering.answer()["choices"])
    assert (first["content"], first["reasoning_content"]) == ("", "a")
    assert (second["content"], second.get("reasoning_content")) == ("b", None)


def test_a_completion_has_one_text() -> None:
    rendering = CompletionRendering(HEADING)
    rendering.collect(0, [delta("~a!"), END])
    assert rendering.answer()["choices"][0]["text"] == "~a!"

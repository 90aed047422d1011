"""Tests of earlier calls and their results in a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.requests import parse_chat

USER = {"role": "user", "content": "Weather?"}
FUNCTION = {"name": "weather", "arguments": '{"city": "Lima"}'}


def read(*messages: dict[str, Any]) -> list[Any]:
    return list(parse_chat({"messages": [USER, *messages]}, Defaults()).messages)[1:]


def called(*ids: str | None, name: str = "weather") -> dict[str, Any]:
    calls = [
        {"type": "function", "function": {**FUNCTION, "name": name}} | ({"id": call_id} if call_id else {})
        for call_id in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def test_a_function_call_becomes_a_tool_call_and_its_result_a_tool_message() -> None:
    call, result = read(
        {"role": "assistant", "content": None, "function_call": FUNCTION},
        {"role": "function", "name": "weather", "content": "rain"},
    )
    (made,) = call["tool_calls"]
    assert made == {"id": made["id"], "type": "function", "function": FUNCTION}
    assert "function_call" not in call
    assert result == {"role": "tool", "name": "weather", "tool_call_id": made["id"], "content": "rain"}


def test_calls_without_ids_get_ids_that_every_template_takes_and_results_find_their_calls() -> None:
    call, first, second = read(
        called(None, None), {"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"}
    )
    ids = [made["id"] for made in call["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(len(made) == 9 and made.isalnum() for made in ids)
    assert [first["tool_call_id"], second["tool_call_id"]] == ids


def test_a_result_gets_the_name_of_its_call() -> None:
    result = read(called("a", "b"), {"role": "tool", "tool_call_id": "b", "content": "rain"})[1]
    assert result["name"] == "weather"
    assert read(called("a"), {"role": "tool", "tool_call_id": "c", "content": "x"})[1].get("name") is None


def test_arguments_stay_the_text_that_the_model_wrote() -> None:
    broken = {
        **called("a"),
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"zone": "America/Li'}}],
    }
    assert read(broken)[0]["tool_calls"][0]["function"]["arguments"] == '{"zone": "America/Li'


def test_other_content_of_a_tool_becomes_a_text_that_says_so() -> None:
    parts = [{"type": "text", "text": "A map:"}, {"type": "video_url", "video_url": {"url": "data:"}}]
    content = read(called("a"), {"role": "tool", "tool_call_id": "a", "content": parts})[1]["content"]
    assert content[0] == parts[0]
    assert content[1]["type"] == "text"
    assert "video_url" in content[1]["text"]
    with pytest.raises(InvalidRequest):
        read({"role": "user", "content": parts})


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "resource", "resource": {"uri": "file:///a"}}, "resource"),
        ({"type": "resource_link", "uri": "file:///a"}, "resource_link"),
        ({"type": "json", "json": {"a": 1}}, "json"),
        ({"type": "document", "source": {}}, "document"),
        ({"type": "text", "text": None}, "text"),
        ({"type": 5}, "5"),
        ({"data": "x"}, "unknown"),
        ({"type": "x" * 1000}, "x" * 64),
    ],
)
def test_a_part_of_a_result_without_a_text_becomes_one_that_says_so(part: dict[str, Any], kind: str) -> None:
    content = read(called("a"), {"role": "tool", "tool_call_id": "a", "content": [part]})[1]["content"]
    says = f"[The tool returned content of type {kind}, which cannot be shown here.]"
    assert content == [{"type": "text", "text": says}]


def test_a_part_of_a_result_with_a_text_is_that_text() -> None:
    parts = [{"type": "output_text", "text": "sun"}, {"text": "rain"}, {"type": "refusal", "refusal": "no"}]
    content = read(called("a"), {"role": "tool", "tool_call_id": "a", "content": parts})[1]["content"]
    assert content == [{"type": "text", "text": text} for text in ("sun", "rain", "no")]


def test_a_tool_may_return_nothing() -> None:
    assert read(called("a"), {"role": "tool", "tool_call_id": "a"})[1]["tool_call_id"] == "a"


def test_an_empty_list_of_calls_is_no_call() -> None:
    assert read({"role": "assistant", "content": "x", "tool_calls": []}) == [
        {"role": "assistant", "content": "x", "tool_calls": []}
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_calls": "x"}, "messages.1.tool_calls"),
        ({"tool_calls": {"id": "a"}}, "messages.1.tool_calls"),
        ({"tool_calls": ["x"]}, "messages.1.tool_calls.0"),
        ({"tool_calls": [{"function": "f"}]}, "messages.1.tool_calls.0.function"),
        ({"tool_calls": [{"function": {"name": 5}}]}, "messages.1.tool_calls.0.function.name"),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f"}}]}, "messages.1.tool_calls.0"),
        ({"function_call": "f"}, "messages.1.function_call"),
    ],
)
def test_a_bad_call_names_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read({"role": "assistant", "content": None, **fields})
    assert refused.value.param == param


def test_the_body_stays_as_it_was() -> None:
    body = {"messages": [USER, called(None), {"role": "tool", "content": [{"type": "image", "image": "x"}]}]}
    before = repr(body)
    parse_chat(body, Defaults())
    assert repr(body) == before

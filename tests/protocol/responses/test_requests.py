"""Tests of how the bodies of the Responses API become chats."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.responses.errors import RESPONSES_DIALECT
from worker_gguf.protocol.responses.requests import ResponsesCall, parse_input_tokens, parse_response

CALL = {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "found"}
FIND = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False, "required": ["a"]}


def parsed(**fields: Any) -> ResponsesCall:
    return parse_response({"input": "Hello", **fields}, Defaults())


def messages(*items: Any) -> list[dict[str, Any]]:
    return [dict(message) for message in parsed(input=list(items)).messages]


def said(role: str, text: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def test_a_text_is_a_message_of_the_user_after_the_instructions() -> None:
    assert parsed(instructions="Be brief.").messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    )


def test_messages_may_leave_out_their_type() -> None:
    assert messages({"role": "developer", "content": "a"}, {"role": "user", "content": "b"}) == [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": "b"},
    ]


def test_what_a_model_wrote_in_one_turn_is_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    user, answer, result = messages(
        said("user", "Find it."), thought, said("assistant", "I look.", "output_text"), CALL, RESULT
    )
    assert user["role"] == "user"
    assert answer["reasoning_content"] == "hm"
    assert answer["content"] == [{"type": "text", "text": "I look."}]
    assert answer["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
    ]
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "c1", "found")


def test_calls_in_a_row_are_one_message_and_later_reasoning_begins_another() -> None:
    second = {**CALL, "call_id": "c2"}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]}
    turns = messages(said("user", "Find."), CALL, second, RESULT, {**RESULT, "call_id": "c2"}, thought, CALL, RESULT)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert [call["id"] for call in turns[1]["tool_calls"]] == ["c1", "c2"]
    assert turns[4]["reasoning_content"] == "so"


def test_two_texts_of_the_assistant_are_two_messages() -> None:
    first, second = messages(said("assistant", "a", "output_text"), said("assistant", "b", "output_text"))
    assert (first["content"][0]["text"], second["content"][0]["text"]) == ("a", "b")


def test_reasoning_without_an_answer_is_left_out() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "lost"}]}
    assert messages(said("user", "a"), thought, said("user", "b"), CALL, RESULT)[2].get("reasoning_content") is None


def test_a_custom_call_keeps_its_text() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin"}
    call, result = messages(custom, {**RESULT, "type": "custom_tool_call_output"})
    assert call["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input": "*** Begin"}'}
    assert result["tool_call_id"] == "c1"


def test_items_of_tools_that_only_openai_runs_are_named() -> None:
    call = parsed(input=[said("user", "a"), {"type": "web_search_call", "id": "ws_1", "status": "completed"}])
    assert call.options.ignored == ("input.1",)


def test_encrypted_reasoning_is_named() -> None:
    thought: dict[str, Any] = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "x"}
    call = parsed(input=[thought, said("user", "a")])
    assert call.options.ignored == ("input.0.encrypted_content",)


def test_parameters_have_the_meaning_of_a_chat_completion() -> None:
    call = parsed(max_output_tokens=7, temperature=0, top_p=0.5, min_p=0.2, stream=True, top_logprobs=2)
    options = call.options
    assert (options.max_tokens, options.stream, options.top_logprobs) == (7, True, 2)
    assert (options.sampling.temperature, options.sampling.top_p, options.sampling.min_p) == (0, 0.5, 0.2)
    assert parsed(include=["message.output_text.logprobs"]).options.top_logprobs == 0


def test_a_format_is_a_constraint() -> None:
    form = {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}
    constraint = parsed(text={"format": form}).options.constraint
    assert constraint is not None
    assert constraint.kind == "json_schema"
    assert parsed(text={"format": {"type": "text"}}).options.constraint is None


def test_functions_are_offered_and_other_tools_are_named() -> None:
    call = parsed(tools=[FIND, {"type": "web_search"}, {"type": "custom", "name": "patch"}], tool_choice="auto")
    assert [tool.name for tool in call.tools.offered] == ["find"]
    assert call.options.ignored == ("tools.1", "tools.2")
    assert [tool["name"] for tool in call.sent["tools"]] == ["find"]


def test_a_function_may_be_required() -> None:
    use = parsed(tools=[FIND], tool_choice={"type": "function", "name": "find"}).tools.use
    assert use is not None
    assert use.is_required


def test_what_codex_sends_is_accepted_and_named() -> None:
    call = parsed(
        input=[said("developer", "Rules."), said("user", "Do it.")],
        instructions="You are a coding agent.",
        tools=[FIND, {"type": "custom", "name": "apply_patch"}, {"type": "web_search"}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        text={"verbosity": "medium"},
        client_metadata={"x": "y"},
    )
    assert call.reasoning.effort is not None
    assert call.reasoning.effort.value == "medium"
    assert call.options.ignored == (
        "client_metadata",
        "include.reasoning.encrypted_content",
        "prompt_cache_key",
        "reasoning.summary",
        "text.verbosity",
        "tools.1",
        "tools.2",
    )


@pytest.mark.parametrize(
    "fields",
    [
        *({"n": 1}, {"logprobs": False}, {"functions": []}, {"return_token_ids": False}),
        *({"store": False}, {"truncation": "disabled"}, {"background": False}),
    ],
)
def test_values_that_ask_for_nothing_pass(fields: dict[str, Any]) -> None:
    assert parse_response({"input": "a", **fields}, Defaults(strict=True)).options.ignored == ()


def test_a_refusal_of_the_assistant_is_a_text() -> None:
    (answer,) = messages({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})
    assert answer["content"] == [{"type": "text", "text": "No."}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"n": 2}, "n"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
        ),
    ],
)
def test_what_needs_state_or_has_no_place_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        parsed(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input.0.role"),
        ({"input": [{"content": "a"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": 5}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": ["a"]}]}, "input.0.content.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text"),
        ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input.0.content.0.type"),
        ({"input": [{"type": 5}]}, "input.0.type"),
        ({"input": [{**CALL, "arguments": {}}]}, "input.0.arguments"),
        ({"input": [{**CALL, "call_id": None}]}, "input.0.call_id"),
        ({"input": [{**RESULT, "output": None}]}, "input.0.output"),
        ({"input": [{"type": "reasoning", "summary": "a"}]}, "input.0.summary"),
        ({"instructions": 5}, "instructions"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"max_output_tokens": "7"}, "max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tool_choice": {"type": "custom", "name": "x"}}, "tool_choice.type"),
    ],
)
def test_the_error_names_the_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    assert RESPONSES_DIALECT.error_body(refused.value)["error"]["param"] == param


def test_an_error_of_the_common_parser_has_the_name_of_this_api() -> None:
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object", "unevaluatedItems": 5}}
    with pytest.raises(InvalidRequest) as refused:
        parsed(text={"format": form})
    error = RESPONSES_DIALECT.error_body(refused.value)["error"]
    assert error["param"] == "text.format.schema"
    assert "response_format" not in error["message"]


def test_the_input_is_required_for_an_answer_but_not_for_a_count() -> None:
    with pytest.raises(InvalidRequest, match="'input' is required"):
        parse_response({}, Defaults())
    chat = parse_input_tokens({"instructions": "Be brief."}, Defaults()).chat
    assert chat is not None
    assert chat.messages == ({"role": "system", "content": "Be brief."},)


def test_strict_parameters_refuse_what_would_be_ignored() -> None:
    with pytest.raises(UnsupportedParameter, match="'store' changes nothing here"):
        parse_response({"input": "a", "store": True}, Defaults(strict=True))

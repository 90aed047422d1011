"""Tests of how the bodies of Anthropic's API become chats."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.anthropic.requests import parse_count, parse_message
from worker_gguf.protocol.calls import ChatCall, Defaults

USER = {"role": "user", "content": "Hello"}
CALL = {"type": "tool_use", "id": "t1", "name": "find", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "found"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FIND = {"name": "find", "description": "Find it.", "input_schema": SCHEMA}
EPHEMERAL = {"type": "ephemeral"}
PNG: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def parsed(**fields: Any) -> ChatCall:
    return parse_message({"messages": [USER], "max_tokens": 9, **fields}, Defaults())


def messages(*turns: Any, **fields: Any) -> list[dict[str, Any]]:
    return [dict(message) for message in parsed(messages=list(turns), **fields).messages]


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": content, **more}


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        parsed(**fields)
    return raised.value


def ignored(call: ChatCall) -> list[str]:
    return list(call.options.ignored)


# --- the conversation -------------------------------------------------------------------------------------------------


def test_a_system_prompt_is_the_first_message() -> None:
    assert messages(USER, system="Be brief.")[0] == {"role": "system", "content": "Be brief."}
    blocks = [text("Be brief."), text("Be kind.")]
    assert messages(USER, system=blocks)[0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert messages(USER, system="") == messages(USER, system=[]) == [USER]


@pytest.mark.parametrize(
    "header",
    [
        "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch=a5145;",
        "x-anthropic-billing-header: cc_version=2.1.197.0fe; cc_entrypoint=sdk-cli; cch=00000;\n",
        "x-anthropic-billing-header: cc_version=2.0.1;",
    ],
)
def test_the_billing_line_of_claude_code_does_not_change_the_prompt(header: str) -> None:
    alone = messages(USER, system=[text(header), text("You are Claude Code.")])
    in_front = messages(USER, system=header + "You are Claude Code.")
    assert alone == in_front == messages(USER, system="You are Claude Code.")
    later = messages(USER, system=[text("You quote:"), text(header)])
    assert later[0]["content"] == f"You quote:\n\n{header}"


def test_texts_stay_apart_for_the_template_and_one_text_is_plain() -> None:
    assert messages(user(text("a"))) == [{"role": "user", "content": "a"}]
    assert messages(user(text("a"), text("b"))) == [{"role": "user", "content": [text("a"), text("b")]}]


def test_messages_in_a_row_of_one_role_are_one_message() -> None:
    joined = [{"role": "user", "content": [text("a"), text("b")]}]
    assert messages({"role": "user", "content": "a"}, user(text("b"))) == joined
    answers = messages(USER, assistant({"type": "thinking", "thinking": "x"}, CALL), assistant(CALL), user(RESULT))
    assert [call["id"] for call in answers[1]["tool_calls"]] == ["t1", "t1"]
    assert answers[1]["reasoning_content"] == "x"


def test_thousands_of_messages_in_a_row_are_joined_in_one_go() -> None:
    begun_s = time.process_time()
    (joined,) = messages(*[USER] * 40_000)
    assert time.process_time() - begun_s < 3  # joined one by one, they take more than twice as long
    assert len(joined["content"]) == 40_000


def test_messages_without_a_text_add_none_to_those_of_their_role() -> None:
    empty = {"role": "user", "content": ""}
    assert messages(empty) == [empty]
    assert messages(empty, USER, user(text(""))) == [USER]


def test_a_later_system_message_keeps_its_place() -> None:
    late = messages(USER, {"role": "assistant", "content": "Hi"}, {"role": "system", "content": [text("Now.")]}, USER)
    assert [message["role"] for message in late] == ["user", "assistant", "system", "user"]


def test_an_answer_with_thinking_and_a_call_comes_back_as_one_message() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "anything"}
    _, answer, result = messages(USER, assistant(thinking, text("I look."), CALL), user(RESULT))
    assert answer["content"] == "I look."
    assert answer["reasoning_content"] == "Hm."
    (call,) = answer["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("t1", "find")
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "found", "name": "find"}


def test_results_become_messages_in_order_and_texts_around_them_stay_the_users() -> None:
    second = {**RESULT, "tool_use_id": "t2", "content": [text("x"), text("y")]}
    found = messages(USER, assistant(CALL, {**CALL, "id": "t2"}), user(RESULT, second, text("And now?"), text("Go.")))
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "tool", "user"]
    assert found[3]["content"] == [text("x"), text("y")]
    assert found[4]["content"] == [text("And now?"), text("Go.")]


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({"content": None}, ""),
        ({"content": "gone", "is_error": True}, "Error:\ngone"),
        ({"content": None, "is_error": True}, "Error:\n"),
        ({"content": [text("gone")], "is_error": True}, [text("Error:"), text("gone")]),
        ({"content": "fine", "is_error": False}, "fine"),
        ({"content": [{"type": "tool_reference", "tool_name": "find"}]}, [text("find")]),
    ],
)
def test_the_content_of_a_result(changes: dict[str, Any], content: object) -> None:
    assert messages(USER, assistant(CALL), user({**RESULT, **changes}))[-1]["content"] == content


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}},
        {"type": "browser_state", "tabs": []},
    ],
)
def test_what_a_tool_returns_beside_text_is_named_in_its_place(block: dict[str, Any]) -> None:
    """A client cannot choose what a tool returns, so it is no error."""
    (shown,) = messages(USER, assistant(CALL), user({**RESULT, "content": [block]}))[-1]["content"]
    assert shown["text"].startswith("[The tool returned content of type ")
    assert block["type"] in shown["text"]


def test_documents_of_text_and_results_of_a_search_are_texts() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "It rains."}
    titled = {"type": "document", "source": plain, "title": "Weather", "context": "From today."}
    parts = {"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}}
    found = {"type": "search_result", "source": "s", "title": "t", "content": [text("c")]}
    (message,) = messages(user(titled, parts, found))
    assert [part["text"] for part in message["content"]] == ["Weather\nFrom today.\nIt rains.", "a\nb", "t\ns\nc"]


def test_blocks_of_servers_and_hidden_thinking_are_left_out_and_named() -> None:
    call = parsed(
        messages=[
            USER,
            assistant(
                {"type": "redacted_thinking", "data": "x"},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                text("It rains."),
            ),
            USER,
        ]
    )
    assert call.messages[1]["content"] == "It rains."
    assert ignored(call) == [f"messages.1.content.{place}" for place in range(3)]


def test_fields_without_effect_are_named_by_their_place() -> None:
    cached = text("x", cache_control=EPHEMERAL, citations=None)
    call = parsed(
        system=[cached],
        messages=[user(cached), assistant({**CALL, "cache_control": EPHEMERAL}), user({**RESULT, "toolset_name": "t"})],
        tools=[{**FIND, "cache_control": EPHEMERAL, "defer_loading": True}, {"type": "bash_20250124", "name": "bash"}],
        metadata={"user_id": "u"},
        service_tier="auto",
        container="c",
        mcp_servers=[],
        context_management={"edits": []},
        betas=["x"],
        output_config={"task_budget": 1},
    )
    assert set(ignored(call)) == {
        *("betas", "container", "context_management", "mcp_servers", "metadata", "service_tier"),
        *("system.0.cache_control", "messages.0.content.0.cache_control", "messages.1.content.0.cache_control"),
        *("messages.2.content.0.toolset_name", "tools.0.cache_control", "tools.0.defer_loading", "tools.1"),
        "output_config.task_budget",
    }


def test_ignored_fields_are_refused_where_parameters_are_strict() -> None:
    with pytest.raises(UnsupportedParameter, match="STRICT_PARAMETERS") as raised:
        parse_message({"messages": [USER], "system": [text("x", cache_control=EPHEMERAL)]}, Defaults(strict=True))
    assert raised.value.param == "system.0.cache_control"


# --- the end of the conversation --------------------------------------------------------------------------------------


def test_the_last_message_of_the_assistant_is_continued() -> None:
    call = parsed(messages=[USER, {"role": "assistant", "content": "Once"}])
    assert call.continue_final_message
    assert not call.add_generation_prompt
    assert parsed().add_generation_prompt


@pytest.mark.parametrize("last", [CALL, {"type": "thinking", "thinking": "x"}])
def test_what_cannot_be_continued_is_refused_but_can_be_counted(last: dict[str, Any]) -> None:
    turns = [USER, assistant(text("I look."), last)]
    assert refusal(messages=turns).param == "messages.1.content"
    counted = parse_count({"messages": turns}, Defaults()).chat
    assert counted is not None
    assert counted.messages[1]["content"] == "I look."


# --- tools ------------------------------------------------------------------------------------------------------------


def test_a_tool_is_a_function_and_only_its_own_fields_reach_the_template() -> None:
    call = parsed(tools=[{**FIND, "type": "custom", "strict": True, "input_examples": [{}]}])
    (definition,) = call.tools.definitions
    assert definition["function"] == {"name": "find", "description": "Find it.", "parameters": SCHEMA}
    assert call.tools.offered[0].strict
    assert ignored(call) == ["tools.0.input_examples"]


@pytest.mark.parametrize(
    ("choice", "is_required", "is_parallel"),
    [
        ({"type": "auto"}, False, True),
        ({"type": "any"}, True, True),
        ({"type": "any", "disable_parallel_tool_use": True}, True, False),
        ({"type": "tool", "name": "find", "disable_parallel_tool_use": False}, True, True),
    ],
)
def test_the_choice_among_tools(choice: dict[str, Any], is_required: bool, is_parallel: bool) -> None:
    use = parsed(tools=[FIND, {**FIND, "name": "go"}], tool_choice=choice).tools.use
    assert use is not None
    assert (use.is_required, use.is_parallel) == (is_required, is_parallel)
    assert [tool.name for tool in use.tools] == (["find"] if choice["type"] == "tool" else ["find", "go"])


def test_no_tool_may_be_called() -> None:
    assert parsed(tools=[FIND], tool_choice={"type": "none"}).tools.use is None


# --- thinking and the form of the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thinking", "switch", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, True, 2048),
        ({"type": "enabled"}, True, None),
        ({"type": "disabled"}, False, None),
        ({"type": "adaptive"}, None, None),
        ({}, None, None),
    ],
)
def test_a_wish_for_thinking(thinking: dict[str, Any], switch: bool | None, budget: int | None) -> None:
    reasoning = parsed(thinking=thinking).reasoning
    assert (reasoning.switch and reasoning.switch.value) == switch
    assert (reasoning.budget and reasoning.budget.value) == budget


def test_thinking_that_is_not_shown_is_hidden() -> None:
    assert parsed(thinking={"type": "adaptive", "display": "omitted"}).reasoning.is_hidden
    shown = parsed(thinking={"type": "adaptive", "display": "summarized"})
    assert not shown.reasoning.is_hidden
    assert ignored(shown) == ["thinking.display"]
    assert ignored(parsed(thinking={"type": "between_tools"})) == ["thinking.type"]


def test_an_effort_is_that_of_the_reasoning_unless_thinking_is_off() -> None:
    effort = parsed(output_config={"effort": "high"}).reasoning.effort
    assert effort is not None
    assert effort.value == "high"
    off = parsed(output_config={"effort": "low"}, thinking={"type": "disabled"})
    assert off.reasoning.effort is None
    assert ignored(off) == ["output_config.effort"]


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_a_format_is_a_schema_that_the_answer_must_match(name: str) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    call = parsed(**{name: {"format": form} if name == "output_config" else form})
    constraint = call.options.constraint
    assert constraint is not None
    assert (constraint.kind, json.loads(constraint.grammar)) == ("json_schema", SCHEMA)


def test_parameters_of_chat_completions_work_as_there() -> None:
    call = parsed(stop_sequences=["a", ""], min_p=0.2, seed=3, chat_template_kwargs={"x": 1}, timeout=5)
    assert call.options.stop == ("a",)
    assert (call.options.sampling.min_p, call.options.sampling.seed, call.options.timeout_s) == (0.2, 3, 5)
    assert call.template_variables == {"x": 1}


# --- bad input --------------------------------------------------------------------------------------------------------


def shown(*blocks: Any) -> dict[str, Any]:
    return {"messages": [user(*blocks)]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": ""}]}, "messages"),
        (shown("x"), "messages.0.content.0"),
        (shown({"text": "x"}), "messages.0.content.0.type"),
        (shown({"type": 3}), "messages.0.content.0.type"),
        (shown(text("a"), {"type": "text"}), "messages.0.content.1.text"),
        (shown({"type": "text", "text": 3}), "messages.0.content.0.text"),
        (shown({"type": "video"}), "messages.0.content.0.type"),
        (shown(CALL), "messages.0.content.0.type"),
        (shown({"type": "image", "source": {**PNG["source"], "data": "?"}}), "messages.0.content.0.source.data"),
        (
            shown({"type": "image", "source": {**PNG["source"], "media_type": "text/plain"}}),
            "messages.0.content.0.source.media_type",
        ),
        (shown({"type": "image", "source": {"type": "url", "url": "ftp://a"}}), "messages.0.content.0.source.url"),
        (shown({"type": "image"}), "messages.0.content.0.source"),
        (shown({"type": "image", "source": {"type": "base64"}}), "messages.0.content.0.source.media_type"),
        (shown({"type": "image", "source": {"type": "file", "file_id": "x"}}), "messages.0.content.0.source.type"),
        (shown({"type": "document", "source": {"type": "url", "url": "x"}}), "messages.0.content.0.source.type"),
        (shown({"type": "document", "source": {"type": "text"}}), "messages.0.content.0.source.data"),
        (shown({"type": "search_result", "content": "x"}), "messages.0.content.0.content"),
        (shown({**RESULT, "tool_use_id": None}), "messages.0.content.0.tool_use_id"),
        (shown({**RESULT, "is_error": "yes"}), "messages.0.content.0.is_error"),
        (shown({**RESULT, "content": 3}), "messages.0.content.0.content"),
        (shown({**RESULT, "content": [3]}), "messages.0.content.0.content.0"),
        ({"messages": [USER, assistant(PNG)]}, "messages.1.content.0.type"),
        ({"messages": [USER, assistant({**CALL, "input": "{}"})]}, "messages.1.content.0.input"),
        ({"messages": [USER, assistant({**CALL, "id": None})]}, "messages.1.content.0.id"),
        ({"system": 3}, "system"),
        ({"system": [PNG]}, "system.0.type"),
        ({"system": [{"type": "text"}]}, "system.0.text"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [3]}, "stop_sequences.0"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": {}}, "tools"),
        ({"tools": [3]}, "tools.0"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{**FIND, "name": "a b"}]}, "tools.0.name"),
        ({"tools": [FIND, {**FIND, "input_schema": {"type": "string"}, "name": "b"}]}, "tools.1.input_schema.type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.type"),
        ({"tools": [{"type": 3}]}, "tools.0.type"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice.type"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [FIND], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [FIND], "tool_choice": {"type": "tool", "name": "go"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "display": "x"}}, "thinking.display"),
        ({"output_config": {"effort": 3}}, "output_config.effort"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema", "schema": 3}}, "output_format.schema"),
        ({"echo": True}, "echo"),
    ],
)
def test_an_error_names_the_field_as_the_client_sent_it(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert f"'{param}'" in error.message


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"response_format": {"type": "json_object"}}, "output_config.format"),
        ({"reasoning_effort": "low"}, "output_config.effort"),
        ({"parallel_tool_calls": False}, "tool_choice.disable_parallel_tool_use"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"n": 2}, "Send one request for each answer"),
        ({"logprobs": True}, "/v1/chat/completions"),
    ],
)
def test_a_field_of_chat_completions_that_has_another_form_here_is_refused(
    fields: dict[str, Any], instead: str
) -> None:
    message = refusal(**fields).message
    assert message.startswith(f"'{next(iter(fields))}' has no meaning here.")
    assert instead in message


def test_formats_that_differ_are_refused() -> None:
    forms = [{"type": "json_schema", "schema": {"type": kind}} for kind in ("object", "string")]
    assert refusal(output_config={"format": forms[0]}, output_format=forms[1]).param == "output_format"


def test_a_count_needs_no_length_of_the_answer_and_takes_the_same_fields() -> None:
    call = parse_count({"model": "m", "messages": [USER], "system": "x", "tools": [FIND], "betas": ["b"]}, Defaults())
    assert call.model == "m"
    assert call.ignored == ("betas",)
    assert call.chat is not None
    assert call.chat.tools.offered[0].name == "find"

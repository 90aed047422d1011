"""Tests of the tools of a request."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.tools import MAX_TOOLS, ToolRequest

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name: str = "weather", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": CITY, **fields}}


def parsed(strict: bool = False, **fields: Any) -> ChatCall:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse_chat(body, Defaults(strict=strict))


def read(**fields: Any) -> ToolRequest:
    return parsed(**fields).tools


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    assert refused.value.status == 400
    return refused.value


def names(request: ToolRequest) -> list[str]:
    assert request.use is not None
    return [tool.name for tool in request.use.tools]


def test_without_tools_nothing_is_called() -> None:
    assert read() == read(tools=[]) == read(tools=None, tool_choice="auto") == ToolRequest()


def test_a_tool_is_read_with_its_schema() -> None:
    request = read(tools=[tool(description="The weather.", strict=True), tool("now", parameters=None)])
    weather, now = request.offered
    assert weather == Tool("weather", CITY, "The weather.", strict=True)
    assert now == Tool("now", NOTHING)
    assert request.use == ToolUse((weather, now))


def test_a_template_gets_the_tool_as_it_was_sent_but_for_what_only_servers_read() -> None:
    sent = tool(strict=True, description="The weather.", examples=[1])
    function = {"name": "weather", "description": "The weather.", "parameters": CITY, "examples": [1]}
    assert read(tools=[sent]).definitions == ({"type": "function", "function": function},)


@pytest.mark.parametrize("fields", [{}, {"description": None}])
def test_a_template_always_finds_a_description(fields: dict[str, Any]) -> None:
    function = read(tools=[tool(**fields)]).definitions[0]["function"]
    assert list(function.items()) == [("name", "weather"), ("description", ""), ("parameters", CITY)]


def test_a_template_gets_no_parameter_that_is_true() -> None:
    request = read(tools=[tool(parameters={"properties": {"a": True, "b": {}}})])
    assert request.definitions[0]["function"]["parameters"]["properties"] == {"a": {}, "b": {}}
    assert request.offered[0].parameters == {"properties": {"a": True, "b": {}}, "type": "object"}


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}])
def test_a_template_always_finds_parameters_with_properties(parameters: Any) -> None:
    request = read(tools=[tool(parameters=parameters)])
    assert request.definitions[0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert request.offered[0].parameters == ({"type": "object"} if parameters else NOTHING)


def test_the_flat_form_of_a_tool_is_the_same() -> None:
    flat = {"type": "function", "name": "weather", "parameters": CITY}
    assert read(tools=[flat]) == read(tools=[tool()])


def test_tools_of_other_types_are_left_out_and_named() -> None:
    call = parsed(tools=[{"type": "web_search"}, tool(), {"type": "custom", "custom": {"name": "x"}}])
    assert call.options.ignored == ("tools.0", "tools.2")
    assert names(call.tools) == ["weather"]
    extended = [tool() | {"cache_control": {"type": "ephemeral"}, "defer": None}]
    assert parsed(tools=extended).options.ignored == ("tools.0.cache_control",)
    with pytest.raises(UnsupportedParameter, match=r"'tools\.0'"):
        parsed(strict=True, tools=[{"type": "web_search"}])


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ("x", "tools"),
        (["x"], "tools.0"),
        ([{}], "tools.0.function"),
        ([{"type": "function", "function": "x"}], "tools.0.function"),
        ([tool(), {"type": "function", "function": {}}], "tools.1.function.name"),
        ([tool("")], "tools.0.function.name"),
        ([tool("a.b")], "tools.0.function.name"),
        ([tool("ü")], "tools.0.function.name"),
        ([tool("a" * 129)], "tools.0.function.name"),
        ([tool("a\n")], "tools.0.function.name"),
        ([tool(5)], "tools.0.function.name"),  # type: ignore[arg-type]
        ([tool(), tool()], "tools.1.function.name"),
        ([tool(parameters=[])], "tools.0.function.parameters"),
        ([tool(parameters="{}")], "tools.0.function.parameters"),
        ([tool(parameters={"type": "string"})], "tools.0.function.parameters.type"),
        ([tool(description=5)], "tools.0.function.description"),
        ([tool(strict="yes")], "tools.0.function.strict"),
        ([{"type": "function", "name": "a b"}], "tools.0.name"),
    ],
)
def test_a_bad_tool_names_its_place(tools: Any, param: str) -> None:
    assert refusal(tools=tools).param == param


def test_five_hundred_tools_are_fine_and_there_is_a_bound() -> None:
    assert len(names(read(tools=[tool(f"tool_{n}") for n in range(500)]))) == 500
    assert refusal(tools=[tool(f"tool_{n}") for n in range(MAX_TOOLS + 1)]).param == "tools"


@pytest.mark.parametrize("choice", ["required", "any", {"type": "required"}])
def test_a_required_call(choice: Any) -> None:
    assert read(tools=[tool(), tool("now")], tool_choice=choice).use == ToolUse(
        (Tool("weather", CITY), Tool("now", CITY)), is_required=True
    )


def test_with_none_the_model_still_reads_the_tools_but_may_not_call_them() -> None:
    request = read(tools=[tool()], tool_choice="none")
    assert request.use is None
    assert request.definitions
    assert request.offered


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "now"}}, {"type": "function", "name": "now"}]
)
def test_a_named_call_is_required_and_of_this_tool(choice: Any) -> None:
    request = read(tools=[tool(), tool("now")], tool_choice=choice)
    assert request.use == ToolUse((Tool("now", CITY),), is_required=True)
    assert [tool.name for tool in request.offered] == ["weather", "now"]


@pytest.mark.parametrize("is_nested", [True, False])
@pytest.mark.parametrize(
    "entry", [{"type": "function", "function": {"name": "now"}}, {"type": "function", "name": "now"}]
)
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools(mode: str, entry: dict[str, Any], is_nested: bool) -> None:
    allowed = {"mode": mode, "tools": [entry, {"type": "mcp", "server_label": "x"}]}
    choice = {"type": "allowed_tools", **({"allowed_tools": allowed} if is_nested else allowed)}
    call = parsed(tools=[tool(), tool("now")], tool_choice=choice)
    assert call.tools.use == ToolUse((Tool("now", CITY),), is_required=mode == "required")
    at = "tool_choice.allowed_tools.tools.1" if is_nested else "tool_choice.tools.1"
    assert call.options.ignored == (at,)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("sometimes", "tool_choice"),
        (5, "tool_choice"),
        ({}, "tool_choice"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
        ({"type": "function", "function": {"name": "rain"}}, "tool_choice.function.name"),
        ({"type": "function", "name": "rain"}, "tool_choice.name"),
        ({"type": "web_search", "x": 1}, "tool_choice.type"),
        ({"type": "allowed_tools"}, "tool_choice.tools"),
        ({"type": "allowed_tools", "tools": []}, "tool_choice.tools"),
        ({"type": "allowed_tools", "tools": ["weather"]}, "tool_choice.tools.0"),
        ({"type": "allowed_tools", "mode": "none", "tools": [{}]}, "tool_choice.mode"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "rain"}]}, "tool_choice.tools.0.name"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "mcp"}]}},
            "tool_choice.allowed_tools.tools",
        ),
    ],
)
def test_a_bad_choice_names_its_place(choice: Any, param: str) -> None:
    assert refusal(tools=[tool()], tool_choice=choice).param == param


@pytest.mark.parametrize("tools", [None, [], [{"type": "web_search"}]])
def test_a_required_call_needs_a_tool(tools: Any) -> None:
    assert refusal(tools=tools, tool_choice="required").param == "tool_choice"


def test_one_call_at_most() -> None:
    assert read(tools=[tool()], parallel_tool_calls=False).use == ToolUse((Tool("weather", CITY),), is_parallel=False)
    assert parsed(parallel_tool_calls=False).options.ignored == ("parallel_tool_calls",)


def test_functions_are_the_older_tools() -> None:
    function = {"name": "weather", "parameters": CITY}
    request = read(functions=[function])
    assert request == ToolRequest(
        ({"type": "function", "function": {**function, "description": ""}},),
        (Tool("weather", CITY),),
        ToolUse((Tool("weather", CITY),), is_parallel=False),
        is_legacy=True,
    )
    assert read(functions=[function], function_call="auto") == request
    assert read(functions=[function], function_call="none").use is None
    named = read(functions=[function, {"name": "now"}], function_call={"name": "now"}).use
    assert named == ToolUse((Tool("now", NOTHING),), is_required=True, is_parallel=False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{}]}, "functions.0.name"),
        ({"functions": [{"name": "a"}, {"name": "a"}]}, "functions.1.name"),
        ({"functions": [{"name": "a"}], "function_call": {"name": "b"}}, "function_call.name"),
        ({"functions": [{"name": "a"}], "function_call": "required"}, "function_call"),
        ({"functions": [{"name": "a"}], "tools": [tool()]}, "functions"),
        ({"function_call": {"name": "b"}}, "function_call.name"),
    ],
)
def test_bad_functions_name_their_place(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_a_completion_has_no_tools() -> None:
    for name, value in {"tools": [tool()], "tool_choice": "required", "functions": [{"name": "a"}]}.items():
        with pytest.raises(UnsupportedParameter, match="Use /v1/chat/completions") as refused:
            parse_completion({"prompt": "x", name: value}, Defaults())
        assert refused.value.param == name


@pytest.mark.parametrize(
    ("parameters", "is_closed"),
    [
        (None, True),
        ({}, True),
        ({"type": "object", "properties": {}}, True),
        ({"type": "object", "properties": {}, "required": [], "$schema": "x", "title": "None"}, True),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}, "additionalProperties": True}, False),
        ({"type": "object", "properties": {}, "patternProperties": {"^x": {}}}, False),
    ],
)
def test_a_function_without_parameters_takes_none(parameters: dict[str, Any] | None, *, is_closed: bool) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": parameters}}
    call = parse_chat({"messages": [{"role": "user", "content": "a"}], "tools": [tool]}, Defaults())
    assert call.tools.use is not None
    (offered,) = call.tools.use.tools
    assert (offered.parameters.get("additionalProperties") is False) == is_closed

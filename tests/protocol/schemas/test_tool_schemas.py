"""Tests of the schemas of tools: what calls are held to, and what of a schema is refused or left out."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher

from tests.markup.vocabulary_of_grammars import GrammarVocabulary
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.call_grammar import call_constraint
from worker_gguf.markup.known_formats import GEMMA_4, HERMES, LFM2, QWEN3_CODER
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.protocol.schemas.tool_schemas import MOST_IGNORED

AT = "tools.0.function.parameters"
CHAIN = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1000)} | {"d1000": {"type": "string"}}
# Each schema is left with what can be guaranteed: all but these keywords.
PARTLY: list[tuple[dict[str, Any], list[str]]] = [
    ({"properties": {"a": {"type": "string", "pattern": "^(?=.*a).*$"}}}, ["pattern"]),
    ({"properties": {"a": {"type": "string", "pattern": "("}}}, ["pattern"]),
    ({"properties": {"a": {"type": "string", "format": "uri-reference"}}}, ["format"]),
    ({"patternProperties": {"^a": {"type": "string"}, "(?=a)": {"type": "integer"}}}, ["patternProperties"]),
    ({"properties": {"a": {"$ref": "#foo"}}}, ["$ref"]),
    ({"properties": {"a": {"$ref": "http://json-schema.org/draft-07/schema#"}}}, ["$ref"]),
    ({"properties": {"a": {"$ref": "#/$defs/Nope"}}}, ["$ref"]),
    ({"properties": {"a": {"not": {"type": "string"}}}}, ["not"]),
    ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, ["uniqueItems"]),
    ({"properties": {"a": {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 1}]}}}, ["oneOf"]),
    ({"properties": {"a": {"type": "number", "multipleOf": 0}}}, ["multipleOf"]),
    ({"properties": {"a": {"type": "number", "multipleOf": 10_000_019}}}, ["multipleOf"]),
    ({"properties": {"a": {"type": "any"}}}, ["type"]),
    ({"properties": {"a": {"type": "string"}}, "required": None}, ["required"]),
    ({"properties": {"a": {"type": "string", "required": True}}}, ["required"]),
    ({"properties": {"a": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}}, ["exclusiveMinimum"]),
    ({"properties": {"a": {"type": "integer", "minimum": "0"}}}, ["minimum"]),
    ({"properties": {"a": {"type": "string", "enum": []}}}, ["enum"]),
    ({"properties": {"a": {}}, "additionalProperties": None}, ["additionalProperties"]),
    ({"properties": None}, ["properties"]),
    ({"properties": {"a": {"type": "array", "minItems": 1.0}}}, []),
    ({"properties": {"a": {"type": "string", "nullable": True}}}, []),
    ({"properties": {"a": {"type": "string", "format": "date"}}}, []),
    ({"properties": {"a": {"type": "string", "pattern": "^\\/[a-z]+$"}}}, []),
    ({"properties": {"a": {"type": "array", "items": [{"type": "string"}]}}}, []),
]


def tool(parameters: Any, name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def parsed(*tools: dict[str, Any]) -> ChatCall:
    return parse_chat({"messages": [{"role": "user", "content": "Hi"}], "tools": list(tools)}, Defaults())


def refusal(*tools: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parsed(*tools)
    return refused.value


@pytest.fixture(scope="module")
def vocabulary() -> GrammarVocabulary:
    return GrammarVocabulary()


@pytest.mark.parametrize(("schema", "keywords"), PARTLY)
@pytest.mark.parametrize("form", [HERMES, QWEN3_CODER, GEMMA_4, LFM2], ids=["json", "tagged", "gemma", "pythonic"])
def test_what_cannot_be_guaranteed_is_left_out_and_named(
    schema: dict[str, Any], keywords: list[str], form: CallFormat, vocabulary: GrammarVocabulary
) -> None:
    call = parsed(tool(schema))
    assert call.options.ignored == tuple(f"{AT}.{keyword}" for keyword in keywords)
    assert call.tools.use is not None
    grammar = call_constraint(form, call.tools.use, vocabulary.token_of).grammar
    matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0)
    assert not matcher.get_error()


@pytest.mark.parametrize(("schema", "keywords"), PARTLY)
def test_a_strict_tool_is_refused_with_the_keyword_and_its_place(schema: dict[str, Any], keywords: list[str]) -> None:
    if not keywords:
        assert parsed(tool(schema, strict=True)).options.ignored == ()
        return
    error = refusal(tool({}, "first"), tool(schema, strict=True))
    assert isinstance(error, UnsupportedParameter)
    assert error.param == "tools.1.function.parameters"
    assert all(f"'{keyword}' at #" in error.message for keyword in keywords)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/d0", "$defs": CHAIN},
        {"properties": {"a": {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}}},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"properties": {"a": {"const": "x" * 300_000}}},
    ],
    ids=["references", "multiples", "endless", "long"],
)
def test_a_schema_that_no_engine_should_see_is_refused_at_its_place(schema: dict[str, Any], strict: bool) -> None:
    assert refusal(tool(schema, strict=strict)).param == AT


def test_the_costs_of_all_tools_are_added_up() -> None:
    slow = {"properties": {f"p{n}": {"type": "string", "pattern": f"a{n}"} for n in range(300)}}
    assert parsed(tool(slow)).options.ignored == ()
    assert refusal(*(tool(slow, f"f{n}") for n in range(20))).param == "tools"
    plain = {"properties": {f"p{n}": {"type": "string", "enum": ["a", "b"]} for n in range(8)}, "required": ["p0"]}
    assert len(parsed(*(tool(plain, f"f{n}") for n in range(500))).tools.offered) == 500


def test_the_template_gets_the_schema_as_it_was_sent() -> None:
    sent = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}, "$schema": "x"}
    request = parsed(tool(sent)).tools
    assert request.definitions[0]["function"]["parameters"] == sent
    held = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert request.offered == (Tool("f", held),)
    assert request.use == ToolUse((Tool("f", held),))


def test_the_names_of_what_is_left_out_are_few_and_have_none_of_a_property() -> None:
    secret: dict[str, Any] = {"properties": {"secret": {"not": {}}, "other": {"not": {}}}}
    ignored = parsed(*(tool(secret, f"f{n}") for n in range(MOST_IGNORED + 9))).options.ignored
    assert len(ignored) == MOST_IGNORED + 1
    assert {f"{AT}.not", "tools.1.function.parameters.not", "tools..."} < set(ignored)


def test_functions_of_the_older_form_are_examined_as_well() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    call = parse_chat({**body, "functions": [{"name": "f", "parameters": {"not": {}}}]}, Defaults())
    assert call.options.ignored == ("functions.0.parameters.not",)
    with pytest.raises(UnsupportedParameter) as refused:
        parse_chat({**body, "tools": [tool({"not": {}})]}, Defaults(strict=True))
    assert refused.value.param == f"{AT}.not"

"""Tests of reading what an answer must match, under all its names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Defaults, Options
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OBJECT = {"type": "object"}
GBNF = 'root ::= "a" | "b"'
LARK = 'start: "a" | "b"'
SECRET = "swordfish"


def options(defaults: Defaults | None = None, **fields: Any) -> Options:
    """Return the options of a chat, which must be equal for a completion."""
    chat = parse_chat({"messages": HELLO, **fields}, defaults or Defaults()).options
    assert parse_completion({"prompt": "Hello", **fields}, defaults or Defaults()).options == chat
    return chat


def constraint(**fields: Any) -> Constraint:
    found = options(**fields).constraint
    assert found is not None
    return found


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        options(**fields)
    assert SECRET not in refused.value.message
    return refused.value


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json", "value": SCHEMA}},
        {"json_schema": SCHEMA},
        {"json_schema": json.dumps(SCHEMA)},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"format": SCHEMA},
    ],
    ids=str,
)
def test_a_schema(fields: dict[str, Any]) -> None:
    found = constraint(**fields)
    assert (found.kind, json.loads(found.grammar), found.triggers) == ("json_schema", SCHEMA, ())
    assert not found.is_lenient


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
        {"format": "json"},
    ],
    ids=str,
)
def test_any_object(fields: dict[str, Any]) -> None:
    assert json.loads(constraint(**fields).grammar) == OBJECT


@pytest.mark.parametrize("schema", [{}, True])
def test_any_value(schema: Any) -> None:
    assert constraint(json_schema=schema).grammar == "{}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"grammar": GBNF}, Constraint("gbnf", GBNF)),
        ({"grammar": LARK}, Constraint("lark", LARK)),
        ({"grammar_string": GBNF}, Constraint("gbnf", GBNF)),
        ({"guided_grammar": GBNF}, Constraint("gbnf", GBNF)),
        ({"guided_grammar": LARK}, Constraint("lark", LARK)),
        ({"structured_outputs": {"grammar": LARK}}, Constraint("lark", LARK)),
        ({"structured_outputs": {"lark": LARK}}, Constraint("lark", LARK)),
        ({"response_format": {"type": "grammar", "grammar": GBNF}}, Constraint("gbnf", GBNF)),
        ({"lark": LARK}, Constraint("lark", LARK)),
        ({"regex": "[ab]"}, Constraint("regex", "[ab]")),
        ({"guided_regex": "[ab]"}, Constraint("regex", "[ab]")),
        ({"structured_outputs": {"regex": "[ab]"}}, Constraint("regex", "[ab]")),
        ({"response_format": {"type": "regex", "pattern": "[ab]"}}, Constraint("regex", "[ab]")),
        ({"choice": ["a", "b", "a"]}, Constraint("choice", '["a", "b"]')),
        ({"guided_choice": ["a", "ü"]}, Constraint("choice", '["a", "ü"]')),
        ({"structured_outputs": {"choice": ["a"]}}, Constraint("choice", '["a"]')),
    ],
    ids=str,
)
def test_a_grammar(fields: dict[str, Any], expected: Constraint) -> None:
    found = constraint(**fields)
    assert (found.kind, found.grammar) == (expected.kind, expected.grammar)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": {}},
        {"grammar": "", "regex": "", "lark": "", "grammar_string": ""},
        {"format": "", "guided_json": "", "guided_regex": "", "structured_outputs": ""},
        {"format": [], "guided_json": [], "guided_regex": [], "structured_outputs": []},
        {"format": {}, "guided_json": {}, "guided_regex": {}, "structured_outputs": {}},
        {"choice": [], "guided_choice": [], "guided_grammar": ""},
        {"structured_outputs": {"json": None, "regex": "", "choice": [], "json_object": False}},
    ],
    ids=str,
)
def test_an_empty_value_asks_for_nothing(fields: dict[str, Any]) -> None:
    assert options(**fields) == options()


def test_the_same_under_two_names_is_one_constraint() -> None:
    """guidance sends its grammar for older and for newer servers of vLLM."""
    both = constraint(guided_regex="a+", structured_outputs={"regex": "a+"})
    assert replace(both, param="") == replace(constraint(guided_regex="a+"), param="")
    assert refusal(guided_regex="a+", structured_outputs={"regex": "b+"}).param == "structured_outputs.regex"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"grammar": GBNF, "json_schema": SCHEMA}, ("json_schema", "grammar")),
        ({"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, ("response_format", "guided_json")),
        ({"regex": "a", "choice": ["a"]}, ("regex", "choice")),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            ("structured_outputs.regex", "structured_outputs.choice"),
        ),
    ],
    ids=str,
)
def test_two_constraints_are_refused_with_both_names(fields: dict[str, Any], names: tuple[str, str]) -> None:
    error = refusal(**fields)
    assert all(f"'{name}'" in error.message for name in names)
    assert error.param == names[1]


def test_text_beside_a_constraint_is_no_second_one() -> None:
    assert constraint(response_format={"type": "text"}, regex="a").kind == "regex"


def test_ignore_eos_is_refused() -> None:
    error = refusal(regex="a+", ignore_eos=True)
    assert error.param == "ignore_eos"
    assert "regex" in error.message
    assert options(regex="a+", ignore_eos=False).constraint is not None


def test_members_without_effect_are_named() -> None:
    ignored = options(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "mode": 1}, "extra": 1}
    ).ignored
    assert ignored == ("response_format.extra", "response_format.json_schema.mode")
    assert options(structured_outputs={"regex": "a", "whitespace_pattern": " "}).ignored == (
        "structured_outputs.whitespace_pattern",
    )
    with pytest.raises(UnsupportedParameter):
        options(Defaults(strict=True), response_format={"type": "text", "extra": 1})


def test_companions_are_named_as_ignored() -> None:
    ignored = options(guided_json=SCHEMA, guided_decoding_backend="x", guided_whitespace_pattern=" ").ignored
    assert ignored == ("guided_decoding_backend", "guided_whitespace_pattern")


def test_a_lazy_grammar_is_refused() -> None:
    assert refusal(grammar=GBNF, grammar_lazy=True).param == "grammar_lazy"
    assert constraint(grammar=GBNF, grammar_lazy=False).kind == "gbnf"


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"response_format": "json"}, "response_format", "an object"),
        ({"response_format": {"type": "swordfish"}}, "response_format.type", "must be text, json_object"),
        ({"response_format": {"schema": {}}}, "response_format.type", "required"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "required",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": 3}}, "response_format.json_schema", "an object"),
        ({"response_format": {"type": "json_object", "schema": 3}}, "response_format.schema", "must be an object"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "Use tools"),
        ({"structural_tag": {"x": 1}}, "structural_tag", "Use tools"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "Use tools"),
        ({"json_schema": "swordfish"}, "json_schema", "is not JSON"),
        ({"json_schema": False}, "json_schema", "no answer matches"),
        ({"guided_json": "[1]"}, "guided_json", "must be an object"),
        ({"guided_json": '{"const": "\\ud800swordfish"}'}, "guided_json", "unpaired surrogate"),
        ({"guided_json": '{"maximum": 1e999}'}, "guided_json", "not finite"),
        ({"guided_json": '{"a": 1, "a": 2}'}, "guided_json", "a name twice"),
        ({"format": "swordfish"}, "format", "json or a JSON Schema"),
        ({"choice": ["a", ""]}, "choice", "not empty"),
        ({"structured_outputs": {"choice": "swordfish"}}, "structured_outputs.choice", "list of texts"),
        ({"choice": ["x"] * 5001}, "choice", "at most 5000"),
        ({"choice": ["x" * 70_000]}, "choice", "65536 characters"),
        ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex", "a text"),
        ({"regex": "a" * 20_000}, "regex", "16384 characters"),
        ({"grammar": "swordfish" * 10_000}, "grammar", "65536 characters"),
        ({"grammar": "\n".join(f'r{n} ::= "a"' for n in range(600))}, "grammar", "500 rules"),
        ({"lark": "start: " + "(" * 1001}, "lark", "1000 groups"),
        ({"lark": '{"grammars": []}'}, "lark", "not JSON"),
        ({"lark": 'start: a\na[temperature=0.5]: "swordfish"'}, "lark", "temperature"),
        ({"lark": 'start: a\na[max_tokens=5]: "swordfish"'}, "lark", "max_tokens"),
        ({"lark": 'start: a\na[stop="x"]: /swordfish/'}, "lark", "use suffix"),
        ({"lark": "start: %json swordfish"}, "lark", "without a JSON Schema"),
        ({"lark": 'start: %json {"not": {"const": "swordfish"}}'}, "lark", "'not' at #"),
        ({"grammar": "a\0"}, "grammar", "not a character"),
    ],
    ids=str,
)
def test_what_cannot_be_read(fields: dict[str, Any], param: str | None, part: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert part in error.message


def test_a_schema_in_lark_is_held_like_any_other() -> None:
    found = constraint(
        lark='start: "<" %json {"type": "string", "format": "date", "x-guidance": {"lenient": true}} ">"'
    )
    before, schema = found.grammar.split("%json ")
    assert before == 'start: "<" '
    assert schema.endswith(' ">"')
    read = json.loads(schema.removesuffix(' ">"'))
    assert "format" not in read
    assert "lenient" not in read["x-guidance"]
    assert read["x-guidance"]["whitespace_flexible"] is False


def test_what_cannot_be_guaranteed_is_named_with_its_place() -> None:
    schema = {"properties": {"a/b": {"items": {"not": {"const": SECRET}, "uniqueItems": True}}}, "title": SECRET}
    error = refusal(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert isinstance(error, UnsupportedParameter)
    assert error.param == "response_format.json_schema.schema"
    assert "'not' at #/properties/a~1b/items is not supported" in error.message
    assert "'uniqueItems' at #/properties/a~1b/items" in error.message


def test_only_the_first_faults_are_named() -> None:
    error = refusal(json_schema={"properties": {f"p{n}": {"contains": {}} for n in range(50)}})
    assert error.message.count("'contains'") == 5
    assert "And 45 more" in error.message


def test_a_regular_expression_that_ends_with_an_escape_is_refused() -> None:
    for text in ("\\", "a\\", "a\\\\\\"):
        with pytest.raises(InvalidRequest, match="regular expression ends with a backslash"):
            parse_completion({"prompt": "x", "regex": text}, Defaults())
    assert parse_completion({"prompt": "x", "regex": "a\\\\"}, Defaults()).options.constraint is not None

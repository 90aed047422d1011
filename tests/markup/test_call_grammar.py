"""The grammar of calls: what begins it, what it allows and what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from llguidance import LLMatcher

from tests.markup.tool_schemas import NODE
from tests.markup.vocabulary_of_grammars import GrammarVocabulary
from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest
from worker_gguf.markup import known_formats as known
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.call_grammar import call_constraint
from worker_gguf.markup.tool import Tool, ToolUse

WEATHER = Tool(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "integer"},
        },
        "required": ["city"],
    },
)
NOW = Tool("now", {"type": "object", "properties": {}, "additionalProperties": False})
FORMS = {name: form for name, form in vars(known).items() if isinstance(form, CallFormat) and name[0] != "_"}


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary()
    yield made
    made.close()


def no_token(text: str) -> None:
    return None


def forced(form: CallFormat, *tools: Tool, is_parallel: bool = True) -> Constraint:
    return call_constraint(form, ToolUse(tools or (WEATHER, NOW), is_required=True, is_parallel=is_parallel), no_token)


def hermes(arguments: str, name: str = "get_weather") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def coder(*values: tuple[str, str], name: str = "get_weather") -> str:
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values)
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("form", "triggers"),
    [
        (known.HERMES, ("<tool_call>",)),
        (known.QWEN3_CODER, ("<function=",)),
        (known.MISTRAL_V3, ("[TOOL_CALLS]",)),
        (known.MISTRAL_V11, ("[TOOL_CALLS]",)),
        (known.DEEPSEEK_V3_1, ("<｜tool▁calls▁begin｜>",)),
        (known.DEEPSEEK_V4, ("<｜DSML｜tool_calls>",)),
        (known.KIMI_K2, ("<|tool_calls_section_begin|>",)),
        (known.PHI_4_MINI, ("<|tool_call|>", "functools")),
        (known.GEMMA_4, ("<|tool_call>call:",)),
        (known.GPT_OSS, (" to=functions.",)),
        (known.LLAMA_3, ("{", "<|python_tag|>{", "<|python_tag|> {", "<|python_tag|>\n{")),
        (known.LLAMA_4, ("[", "<|python_start|>[", "<|python_start|> [", "<|python_start|>\n[")),
        (known.FUNCTIONARY_3_2, ()),
    ],
)
def test_a_call_that_is_not_required_begins_with_a_trigger(form: CallFormat, triggers: tuple[str, ...]) -> None:
    constraint = call_constraint(form, ToolUse((WEATHER,)), no_token)
    assert constraint.triggers == triggers
    assert constraint.only_at_start == form.only_at_start
    assert constraint.kind == "lark"


@pytest.mark.parametrize("name", FORMS)
def test_a_required_call_has_no_trigger(name: str) -> None:
    assert forced(FORMS[name]).triggers == ()


def test_a_control_token_is_written_by_its_id() -> None:
    ids = {"<｜tool▁calls▁begin｜>": 7, "<｜tool▁call▁begin｜>": 8, "<｜tool▁sep｜>": 9, "<｜tool▁call▁end｜>": 10}
    grammar = call_constraint(known.DEEPSEEK_R1, ToolUse((NOW,), is_required=True), ids.get).grammar
    assert "<[7]>" in grammar
    assert "<[8]> T0 <[9]>".replace("T0", grammar.partition("<[8]> ")[2].partition(" ")[0]) in grammar
    assert "tool▁sep" not in grammar
    assert '"function"' in grammar


@pytest.mark.parametrize(
    ("arguments", "is_allowed"),
    [
        ('{"city": "Oslo"}', True),
        ('{"city":"Oslo","unit":"c"}', True),
        ('{\n  "city": "Oslo",\n  "days": 3\n}', True),
        ('{"city": 3}', False),
        ('{"unit": "c"}', False),
        ('{"city": "Oslo", "unit": "k"}', False),
        ('{"city": "Oslo", "days": 1.5}', False),
        ('{"city":    "Oslo"}', False),
        ("{}", False),
    ],
)
def test_arguments_match_the_schema(vocabulary: GrammarVocabulary, arguments: str, is_allowed: bool) -> None:
    assert vocabulary.accepts(forced(known.HERMES), hermes(arguments)) is is_allowed


@pytest.mark.parametrize(
    ("values", "is_allowed"),
    [
        ([("city", "Oslo")], True),
        ([("unit", "c"), ("days", "3"), ("city", "two\nlines <b> </parameter> and\n")], True),
        ([("city", "Oslo"), ("unit", "k")], False),
        ([("city", "Oslo"), ("days", "three")], False),
        ([("city", "Oslo"), ("city", "Oslo")], False),
        ([("unit", "c")], False),
        ([("city", "Oslo"), ("country", "Norway")], False),
        ([], False),
    ],
)
def test_values_between_marks_match_the_schema_in_any_order(
    vocabulary: GrammarVocabulary, values: list[tuple[str, str]], is_allowed: bool
) -> None:
    assert vocabulary.accepts(forced(known.QWEN3_CODER), coder(*values)) is is_allowed


@pytest.mark.parametrize(
    ("form", "answer", "is_allowed"),
    [
        (known.GEMMA_4, '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>', True),
        (known.GEMMA_4, '<|tool_call>call:get_weather{days:3, city:<|"|>"{}"<|"|>}<tool_call|>', True),
        (known.GEMMA_4, "<|tool_call>call:get_weather{days:3}<tool_call|>", False),
        (known.GEMMA_4, "<|tool_call>call:get_weather{city:3}<tool_call|>", False),
        (known.GEMMA_4, '<|tool_call>call:get_weather{city:<|"|>a<|"|>,unit:<|"|>k<|"|>}<tool_call|>', False),
        (known.LFM2, "<|tool_call_start|>[get_weather(city='Oslo'), now()]<|tool_call_end|>", True),
        (known.LFM2, '<|tool_call_start|>[get_weather(unit="c",city="it\'s")]<|tool_call_end|>', True),
        (known.LFM2, "<|tool_call_start|>[get_weather(city=Oslo)]<|tool_call_end|>", False),
        (known.LFM2, "<|tool_call_start|>[get_weather('Oslo')]<|tool_call_end|>", False),
        (known.LFM2, "<|tool_call_start|>[]<|tool_call_end|>", False),
        (known.MISTRAL_V11, "[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}[TOOL_CALLS]now[ARGS]{}", True),
        (known.MISTRAL_V11, "[TOOL_CALLS]now[CALL_ID]1[ARGS]{}", False),
        (
            known.KIMI_K3,
            '<|open|>tools<|sep|><|open|>call tool="now" index="1"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
            True,
        ),
        (known.GPT_OSS, "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}", True),
        (known.GPT_OSS, " to=functions.now<|channel|>commentary json<|message|>{}", True),
        (known.GPT_OSS, "<|channel|>final<|message|>Hello", False),
        (known.LLAMA_3, '<|python_tag|>{"type": "function", "name": "now", "parameters": {}}', True),
        (known.LLAMA_3, '{"name": "now", "arguments": {}}', True),
        (known.LLAMA_3, '{"name": "later", "parameters": {}}', False),
        (known.FUNCTIONARY_3_2, "now\n{}>>>now\n{}", True),
        (known.FUNCTIONARY_3_2, "all\nHello", False),
    ],
)
def test_a_required_call(vocabulary: GrammarVocabulary, form: CallFormat, answer: str, is_allowed: bool) -> None:
    assert vocabulary.accepts(forced(form), answer, has_control=False) is is_allowed


@pytest.mark.parametrize("name", FORMS)
def test_a_name_that_was_not_offered_is_not_allowed(vocabulary: GrammarVocabulary, name: str) -> None:
    form = FORMS[name]
    matcher = vocabulary.matcher(forced(form, WEATHER))
    for seed in range(3):
        matcher.reset()
        drawn = vocabulary.random_answer(matcher, seed, form)
        assert drawn is None or "get_weather" in drawn


def test_text_without_a_call_is_not_allowed_where_one_is_required(vocabulary: GrammarVocabulary) -> None:
    assert not vocabulary.accepts(forced(known.HERMES), "Hello")
    assert not vocabulary.accepts(forced(known.HERMES), "Hello\n" + hermes("{}", "now"))
    assert not vocabulary.accepts(forced(known.HERMES), "")


def test_one_call_or_several(vocabulary: GrammarVocabulary) -> None:
    two = hermes("{}", "now") + "\n" + hermes("{}", "now")
    assert vocabulary.accepts(forced(known.HERMES), two)
    assert not vocabulary.accepts(forced(known.HERMES, is_parallel=False), two)
    assert vocabulary.accepts(forced(known.HERMES, is_parallel=False), hermes("{}", "now"))
    assert not vocabulary.accepts(forced(known.LLAMA_3), '{"name": "now", "parameters": {}}' * 2)


def test_after_the_trigger_comes_one_call_or_the_rest_of_the_section(vocabulary: GrammarVocabulary) -> None:
    alone = vocabulary.matcher(call_constraint(known.HERMES, ToolUse((NOW,)), no_token))
    text = '\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert vocabulary.match(alone, text + " and more", has_control=False) == len(text)
    assert alone.is_stopped()
    section = vocabulary.matcher(call_constraint(known.MISTRAL_V3, ToolUse((NOW,)), no_token))
    text = ' [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}, "id": "abcdefghi"}]'
    assert vocabulary.match(section, text + " and more", has_control=False) == len(text)
    only_one = call_constraint(known.MISTRAL_V3, ToolUse((NOW,), is_parallel=False), no_token)
    assert vocabulary.match(vocabulary.matcher(only_one), text, has_control=False) is None


def test_white_space_does_not_go_on_for_ever(vocabulary: GrammarVocabulary) -> None:
    for form in FORMS.values():
        matcher = vocabulary.matcher(forced(form))
        spaces = vocabulary.tokens(" \n" * 100)
        assert matcher.validate_tokens(spaces) < len(spaces)
    matcher = vocabulary.matcher(forced(known.HERMES))
    begin = '<tool_call>\n{"name": "get_weather", "arguments": {"city":'
    assert matcher.consume_tokens(vocabulary.tokens(begin))
    assert matcher.validate_tokens(vocabulary.tokens("\n" + " " * 64)) > 0
    assert matcher.validate_tokens(vocabulary.tokens("\n\n")) < len(vocabulary.tokens("\n\n"))


@pytest.mark.parametrize("schema", [{}, {"properties": {}}, {"type": "object"}, {"title": "Arguments"}])
@pytest.mark.parametrize("name", FORMS)
def test_a_schema_that_says_nothing_allows_any_object(
    vocabulary: GrammarVocabulary, name: str, schema: dict[str, Any]
) -> None:
    form = FORMS[name]
    vocabulary.matcher(forced(form, Tool("f", schema)))
    if form.syntax == "json_object":
        keys = form.json_call
        for arguments in ({}, {"a": [1, {"b": None}]}):
            call = json.dumps({keys.name_key: "f", keys.arguments_key: arguments})
            text = f"[{call}]" if form.is_array else f"{form.call_start}{call}{form.call_end}"
            end = form.section_end if form.section_start else ""
            assert vocabulary.accepts(
                forced(form, Tool("f", schema)), form.section_start + text + end, has_control=False
            )


def test_the_arguments_are_an_object_even_if_the_schema_has_no_type(vocabulary: GrammarVocabulary) -> None:
    constraint = forced(known.HERMES, Tool("f", {"properties": {"a": {"type": "integer"}}}))
    assert vocabulary.accepts(constraint, hermes('{"a": 1}', "f"))
    assert not vocabulary.accepts(constraint, hermes("[]", "f"))


def test_definitions_of_a_tool_are_its_own(vocabulary: GrammarVocabulary) -> None:
    tools = [
        Tool(name, {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": kind}}})
        for name, kind in (("f", "integer"), ("g", "string"))
    ]
    constraint = forced(known.HERMES, *tools)
    assert vocabulary.accepts(constraint, hermes('{"a": 1}', "f"))
    assert vocabulary.accepts(constraint, hermes('{"a": "x"}', "g"))
    assert not vocabulary.accepts(constraint, hermes('{"a": "x"}', "f"))
    coders = forced(known.QWEN3_CODER, *tools)
    assert vocabulary.accepts(coders, coder(("a", "1"), name="f"))
    assert not vocabulary.accepts(coders, coder(("a", "x"), name="f"))
    assert vocabulary.accepts(coders, coder(("a", "x"), name="g"))


@pytest.mark.parametrize("form", [known.HERMES, known.QWEN3_CODER, known.GEMMA_4, known.LFM2])
def test_a_schema_that_refers_to_itself_is_a_grammar_that_does_so(
    vocabulary: GrammarVocabulary, form: CallFormat
) -> None:
    tool = Tool("f", {"type": "object", "properties": {"node": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": NODE}})
    value = {"v": 1, "next": {"v": 2, "next": None}}
    text = {
        "json_object": hermes(json.dumps({"node": value}), "f"),
        "tagged": coder(("node", json.dumps(value)), name="f"),
        "gemma": "<|tool_call>call:f{node:{v:1,next:{v:2,next:null}}}<tool_call|>",
        "pythonic": f"<|tool_call_start|>[f(node={value!r})]<|tool_call_end|>",
    }[form.syntax or ""]
    assert vocabulary.accepts(forced(form, tool), text, has_control=False)
    assert not vocabulary.accepts(forced(form, tool), text.replace("2", "'2'"), has_control=False)


def test_a_schema_cannot_set_options_of_the_grammar(vocabulary: GrammarVocabulary) -> None:
    tool = Tool("f", {"type": "object", "x-guidance": {"whitespace_pattern": ".*"}, "additionalProperties": False})
    assert not vocabulary.accepts(forced(known.HERMES, tool), hermes("{     }", "f"))


def test_a_description_is_no_part_of_the_grammar_but_an_argument_of_that_name_is(vocabulary: GrammarVocabulary) -> None:
    properties = {"description": {"type": "string", "description": "Secret."}, "title": {"type": "integer"}}
    tool = Tool("f", {"type": "object", "properties": properties, "required": ["description"]})
    constraint = forced(known.HERMES, tool)
    assert "Secret" not in constraint.grammar
    assert vocabulary.accepts(constraint, hermes('{"description": "a", "title": 1}', "f"))
    assert not vocabulary.accepts(constraint, hermes('{"title": 1}', "f"))


@pytest.mark.parametrize("name", ['say"hi"', "back\\slash", "ünï", "a/b", "%json", "new", "<[1]>"])
def test_names_are_escaped(vocabulary: GrammarVocabulary, name: str) -> None:
    constraint = forced(known.HERMES, Tool(name, {}))
    written = json.dumps(name, ensure_ascii=False)[1:-1]
    assert vocabulary.accepts(constraint, hermes("{}", written))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (known.QWEN3_CODER, "a>b"),
        (known.LFM2, "two words"),
        (known.FUNCTIONARY_3_2, "two\nlines"),
        (known.GEMMA_4, "a{b"),
    ],
)
def test_a_name_that_the_format_cannot_carry_is_refused(form: CallFormat, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        forced(form, Tool(name, {}))


@pytest.mark.parametrize("form", [known.QWEN3_CODER, known.GEMMA_4, known.LFM2])
def test_a_strict_tool_with_what_cannot_be_guaranteed_is_refused(form: CallFormat) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a+$"}}}
    with pytest.raises(InvalidRequest, match="'pattern'"):
        forced(form, Tool("f", schema, strict=True))
    forced(form, Tool("f", schema))
    forced(form, Tool("f", {"type": "object", "properties": {"pattern": {"type": "string"}}}, strict=True))


def test_a_strict_tool_is_compiled_without_lenience(vocabulary: GrammarVocabulary) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    vocabulary.matcher(forced(known.HERMES, Tool("f", schema)))
    strict = forced(known.HERMES, Tool("f", schema, strict=True))
    assert LLMatcher(vocabulary.tokenizer, strict.grammar, log_level=0).is_error()


def test_lengths_of_raw_texts_are_kept(vocabulary: GrammarVocabulary) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 2, "maxLength": 3}}}
    constraint = forced(known.QWEN3_CODER, Tool("f", schema))
    allowed = [
        text for text in ("x", "xy", "xyz", "wxyz") if vocabulary.accepts(constraint, coder(("a", text), name="f"))
    ]
    assert allowed == ["xy", "xyz"]


def test_control_tokens_cannot_be_a_part_of_a_raw_text(vocabulary: GrammarVocabulary) -> None:
    matcher = vocabulary.matcher(forced(known.QWEN3_CODER, WEATHER))
    begin = "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo"
    assert matcher.consume_tokens(vocabulary.tokens(begin))
    assert matcher.validate_tokens([vocabulary.ids["[TOOL_CALLS]"]]) == 0
    assert matcher.validate_tokens(vocabulary.tokens("[TOOL_CALLS]", has_control=False)) > 0


def test_a_raw_text_cannot_have_what_ends_it_for_the_parser(vocabulary: GrammarVocabulary) -> None:
    tool = Tool("f", {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"]})
    matcher = vocabulary.matcher(forced(known.QWEN3_CODER, tool))
    begin = "<tool_call>\n<function=f>\n<parameter=a>\nx"
    assert matcher.consume_tokens(vocabulary.tokens(begin))
    for end in (
        "\n</parameter>\n</function>\n</tool_call>",
        "\n</function>\n</tool_call>\n<tool_call>\n<function=",
        "\n<parameter=b>",
    ):
        tokens = vocabulary.tokens(end)
        assert matcher.validate_tokens(tokens) < len(tokens), end
    for text in (
        "</parameter> and </function>",
        "\n</parameter>\n<parameter=b>\n1\n</parameter>\n</function>\n</tool_call>",
    ):
        tokens = vocabulary.tokens(text)
        assert matcher.validate_tokens(tokens) == len(tokens), text


def test_two_tools_of_one_name_are_one() -> None:
    assert forced(known.HERMES, WEATHER, WEATHER) == forced(known.HERMES, WEATHER)


@pytest.mark.parametrize("name", FORMS)
def test_hundreds_of_tools_are_one_grammar(vocabulary: GrammarVocabulary, name: str) -> None:
    tools = tuple(Tool(f"tool_{number}", WEATHER.parameters) for number in range(300))
    vocabulary.matcher(call_constraint(FORMS[name], ToolUse(tools), vocabulary.token_of))


def test_a_tool_with_hundreds_of_parameters(vocabulary: GrammarVocabulary) -> None:
    properties = {f"p{number}": {"type": "integer"} for number in range(200)}
    tool = Tool("f", {"type": "object", "properties": properties, "required": ["p150"]})
    for form in FORMS.values():
        vocabulary.matcher(forced(form, tool))
    constraint = forced(known.QWEN3_CODER, tool)
    assert vocabulary.accepts(constraint, coder(("p199", "1"), ("p150", "1"), ("p0", "1"), name="f"))
    assert not vocabulary.accepts(constraint, coder(("p199", "1"), ("p0", "1"), name="f"))


def test_without_tools_or_a_format_there_is_no_constraint() -> None:
    with pytest.raises(ValueError, match="needs tools"):
        call_constraint(known.HERMES, ToolUse(()), no_token)
    with pytest.raises(ValueError, match="needs tools"):
        call_constraint(CallFormat(), ToolUse((NOW,)), no_token)


@pytest.mark.parametrize("name", FORMS)
def test_a_schema_that_is_nested_too_deeply_is_refused(name: str) -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        forced(FORMS[name], Tool("f", schema))


@pytest.mark.parametrize("form", [known.GEMMA_4, known.LFM2])
def test_a_type_that_json_schema_does_not_have_is_refused(form: CallFormat) -> None:
    with pytest.raises(InvalidRequest, match="'str'"):
        forced(form, Tool("f", {"type": "object", "properties": {"a": {"type": "str"}}}))

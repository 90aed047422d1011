"""Tests that our rendering equals Transformers', for published templates and every kind of conversation."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.template.chat_template import ChatTemplate

# The project's shared folder lies beside its checkout.
TEMPLATES = Path(__file__).resolve().parents[3] / "shared" / "templates"
FILES = sorted(TEMPLATES.glob("*.jinja"))
NOON = datetime(2026, 3, 4, 12, 30, 5)  # noqa: DTZ001  templates print local time
TOKENS: dict[str, Any] = {"bos_token": "<BOS>", "eos_token": "<EOS>", "unk_token": "<UNK>", "pad_token": "<PAD>"}

FORECAST = {
    "type": "function",
    "function": {
        "name": "get_forecast",
        "description": 'Tell the weather in a place, <b>now</b> & later — "ılık".',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The place"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "array", "items": {"type": "integer"}, "description": "Days ahead"},
                "options": {"type": "object", "properties": {"wind": {"type": "boolean"}}},
                "height": {"type": ["number", "null"], "description": "Metres"},
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "One sentence"},
    },
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Tell the weather in a place, <b>now</b> & here — "ılık".',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The place"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "Tell the time.", "parameters": {"type": "object", "properties": {}}},
}


def user(content: object = "What is the capital of France?") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: object = "Paris.", **fields: object) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def system(content: object = "Answer in one word.", role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": content}


def call(name: str, arguments: object, identity: str = "call00001") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(content: object, identity: str = "call00001", name: str = "get_weather") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "name": name, "content": content}


def text(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


ARGUMENTS = {"city": "İzmir", "unit": "celsius", "days": [1, 2], "options": {"wind": True}, "height": None}
TWO_TURNS = [user(), assistant(), user("And of Italy?")]
WEATHER_TURN = [user("Weather in İzmir?"), assistant("", tool_calls=[call("get_weather", ARGUMENTS)]), result("21 °C")]
TOOLS: dict[str, Any] = {"tools": [WEATHER, CLOCK]}

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one question": ([user()], {}),
    "system": ([system(), user()], {}),
    "empty system": ([system(""), user()], {}),
    "several turns": (TWO_TURNS, {}),
    "several turns, system": ([system(), *TWO_TURNS, assistant("Rome."), user("Thanks!")], {}),
    "answered": ([*TWO_TURNS, assistant("Rome.")], {}),
    "system in the middle": ([user(), assistant(), system(), user()], {}),
    "two systems": ([system(), system("Be kind."), user()], {}),
    "two users": ([user(), user("Hello?")], {}),
    "assistant first": ([assistant("Hi."), user()], {}),
    "system alone": ([system()], {}),
    "developer": ([system(role="developer"), user()], {}),
    "unknown role": ([{"role": "narrator", "content": "Once."}, user()], {}),
    "no content": ([{"role": "user"}], {}),
    "null content": ([user(), assistant(None), user()], {}),
    "unicode": ([system("Türkçe konuş. 用中文"), user("Çay mı, kahve mi? ☕👩‍👩‍👧 \u202eעברית")], {}),
    "whitespace": ([system("  a \n"), user("\n\n b\t\n"), assistant(" c "), user("d\n")], {}),
    "markup": ([user("<b>&amp; 'x' \"y\"</b> {{ 7 * 7 }} {% raw %} <|im_end|>")], {}),
    "parts": ([system(text("Be brief.")), user(text("One", "two")), assistant(text("x")), user(text("y"))], {}),
    "image": ([user([{"type": "image_url", "image_url": {"url": "data:,"}}, *text("What is it?")])], {}),
    "tools": ([user("Weather in İzmir?")], TOOLS),
    "tools, system": ([system(), user("Weather in İzmir?")], TOOLS),
    "tool with much said": ([user()], {"tools": [FORECAST, WEATHER]}),
    "no tools": ([user()], {"tools": []}),
    "tool call": (WEATHER_TURN[:2], TOOLS),
    "tool result": (WEATHER_TURN, TOOLS),
    "tool result, tools not offered": (WEATHER_TURN, {}),
    "tool result, answered": ([system(), *WEATHER_TURN, assistant("21 °C."), user("And tomorrow?")], TOOLS),
    "tool call, null content": (
        [user(), assistant(None, tool_calls=[call("clock", {})]), result("noon", name="clock")],
        TOOLS,
    ),
    "tool call, missing content": (
        [user(), {"role": "assistant", "tool_calls": [call("clock", {})]}, result("noon", name="clock")],
        TOOLS,
    ),
    "tool call, text beside": (
        [user(), assistant("I look.", tool_calls=[call("get_weather", {"city": "Rome"})]), result('{"t": 21}')],
        TOOLS,
    ),
    "tool call, text arguments": (
        [user(), assistant("", tool_calls=[call("get_weather", '{"city": "Rome"}')]), result("21 °C")],
        TOOLS,
    ),
    "two calls at once": (
        [
            user(),
            assistant("", tool_calls=[call("get_weather", ARGUMENTS), call("clock", {}, "call00002")]),
            result("21 °C"),
            result("noon", "call00002", "clock"),
        ],
        TOOLS,
    ),
    "two calls in turn": (
        [
            *WEATHER_TURN,
            assistant("", tool_calls=[call("clock", {}, "call00002")]),
            result("noon", "call00002", "clock"),
            assistant("Noon."),
            user("Thanks."),
        ],
        TOOLS,
    ),
    "tool result as parts": ([*WEATHER_TURN[:2], result(text("21", "°C"))], TOOLS),
    "tool result as object": ([*WEATHER_TURN[:2], result({"t": 21})], TOOLS),
    "tool with little said": ([user()], {"tools": [{"type": "function", "function": {"name": "bare"}}]}),
    "reasoning": ([user(), assistant(reasoning_content="France, so"), user("Sure?")], {}),
    "older reasoning": ([user(), assistant(thinking="France, so"), user("Sure?")], {}),
    "reasoning before a call": (
        [user(), assistant("", reasoning="hm", tool_calls=[call("get_weather", ARGUMENTS)]), result("21 °C")],
        TOOLS,
    ),
    "think tags": ([user(), assistant("<think>\nhm\n</think>\n\nParis."), user("Sure?")], {}),
    "thinking off": (TWO_TURNS, {"enable_thinking": False, "thinking": False}),
    "thinking on": (TWO_TURNS, {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    "documents": ([user()], {"documents": [{"title": "Paris", "text": "It is a <capital>."}]}),
    "date given": ([system(), user()], {"date_string": "01 Jan 2020", "bos_token": "<OTHER>"}),
}


# Transformers refuses these too: they know no role `tool`, or write a generator as JSON.
REFUSING_CALLS = {"google-gemma-2-2b-it", "llama-cpp-deepseek-r1"}
# Transformers refuses calls for these, because they append to a list of their own; llama.cpp takes them.
APPENDING = {"Kimi-K2-Instruct", "Kimi-K2-Thinking"}
# These take a call and leave it out.
WITHOUT_CALLS = {"LFM2-8B-A1B", "ibm-granite-granite-3.3-2B-Instruct"}


@pytest.fixture(scope="module")
def reference() -> Any:
    """Transformers, at a fixed time. No PyTorch, no tokenizer: only the base class' method is used."""
    pytest.importorskip("transformers", reason="transformers is not installed (requirements of the tests)")
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    class Noon(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return NOON

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Noon)
        yield PreTrainedTokenizerBase(**TOKENS)


def outcome(render: Callable[[], str], *refusals: type[Exception]) -> str | None:
    """Return the rendered text, or None for a refusal."""
    try:
        return render()
    except refusals:
        return None


@functools.cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, now=lambda: NOON, **TOKENS)


def both(source: str, reference: Any, messages: list[dict[str, Any]], options: dict[str, Any]) -> tuple[Any, Any]:
    expected = outcome(
        lambda: reference.apply_chat_template(
            copy.deepcopy(messages), chat_template=source, tokenize=False, **copy.deepcopy(options)
        ),
        Exception,
    )
    return outcome(lambda: compiled(source).render(messages, **options), TemplateError), expected


@pytest.mark.skipif(not FILES, reason=f"no templates in {TEMPLATES}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_output_equals_that_of_transformers(path: Path, reference: Any) -> None:
    source = path.read_text(encoding="utf-8")
    n_rendered = 0
    for name, (messages, options) in CONVERSATIONS.items():
        for prompted in (True, False):
            ours, expected = both(source, reference, messages, {**options, "add_generation_prompt": prompted})
            if expected is None and path.stem in APPENDING:
                continue
            assert ours == expected, f"{name}, add_generation_prompt={prompted}"
            n_rendered += ours is not None
    # A comparison of refusals alone would show nothing.
    assert n_rendered >= 20


@pytest.mark.skipif(not FILES, reason=f"no templates in {TEMPLATES}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("ending", ["The capital is", "The capital is ", [{"type": "text", "text": "The "}], None])
def test_continues_where_transformers_continues(path: Path, reference: Any, ending: object) -> None:
    options = {"add_generation_prompt": False, "continue_final_message": True}
    messages = [system(), user(), assistant(ending)]
    ours, expected = both(path.read_text(encoding="utf-8"), reference, messages, options)
    assert ours == expected


@pytest.mark.skipif(not FILES, reason=f"no templates in {TEMPLATES}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_continues_reasoning_where_transformers_does(path: Path, reference: Any) -> None:
    messages = [user(), assistant("", reasoning_content="France, so ")]
    options = {"add_generation_prompt": False, "continue_final_message": "reasoning_content"}
    ours, expected = both(path.read_text(encoding="utf-8"), reference, messages, options)
    assert ours == expected


@pytest.mark.skipif(not FILES, reason=f"no templates in {TEMPLATES}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_conversation_that_fits_is_not_changed(path: Path) -> None:
    template = compiled(path.read_text(encoding="utf-8"))
    for messages in ([user()], TWO_TURNS, [*TWO_TURNS, assistant("Rome.")]):
        for tools in (None, [WEATHER]):
            plain = outcome(functools.partial(template.render, messages, tools=tools), TemplateError)
            assert outcome(functools.partial(template.prompt, messages, tools=tools), TemplateError) == plain


@pytest.mark.skipif(not FILES, reason=f"no templates in {TEMPLATES}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shaping_makes_arguments_say_the_same_as_text_and_as_object(path: Path) -> None:
    template = compiled(path.read_text(encoding="utf-8"))
    arguments = {"city": "İzmir", "unit": "celsius"}
    prompts = []
    for form in (arguments, json.dumps(arguments, ensure_ascii=False)):
        messages = [user(), assistant(None, tool_calls=[call("get_weather", form)]), result("21 °C")]
        prompts.append(outcome(functools.partial(template.prompt, messages, tools=[WEATHER]), TemplateError))
    assert prompts[0] == prompts[1]
    if path.stem in REFUSING_CALLS:
        assert prompts[0] is None
    else:
        assert "İzmir" in (prompts[0] or "")
        assert path.stem in WITHOUT_CALLS or '\\"city' not in (prompts[0] or "")


# What published templates happen not to use, and Jinja at its edges.
SNIPPETS = [
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% set x = 1 %}{% endgeneration %}{{ x }}{% endfor %}",
    "{% for m in messages recursive %}{{ loop.depth }}{% if m.sub %}{{ loop(m.sub) }}{% endif %}{% endfor %}",
    "{% for a in messages if a.role == 'user' %}{{ loop.length }}{{ loop.last }}{% else %}none{% endfor %}",
    "{% macro m(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{% call m(1) %}c{% endcall %}",
    "{% block a %}{{ messages[0].content }}{% endblock %}{{ self.a() }}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages | tojson(true, sort_keys=True) }}",
    "{{ messages | tojson(separators=(',', ':')) }}{{ messages }}{{ messages[0] | string }}{{ none }}{{ true }}",
    "{{ nothing }}|{{ nothing.deeper }}",
    "{{ nothing + 'x' }}",
    "{{ messages[0].nothing ~ 'x' }}{{ messages[9] }}{{ nothing | default('d') }}{{ nothing | length }}",
    "{{ messages[0].content.nothing.more }}",
    "{{ strftime_now('%d %b %Y %H:%M') }}{{ strftime_now(format='%Y') }}",
    "{{ raise_exception('no') }}",
    "{% if false %}{{ raise_exception('no') }}{% endif %}ok",
    "{{ messages[0].__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns }}{{ namespace({'b': 2}).b }}",
    "{{ namespace(_a=1) }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{{ dict(a=1) }}{{ dict.fromkeys(['a'], 2) }}{{ dict([('b', 3)]) }}",
    "{{ dict.mro }}",
    "{{ range(3) | list }}{{ range(200000) | list }}",
    "{{ 'a' * 3 }}{{ [1] * 2 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%05d|%s' % (3, 'x') }}{{ '%s' | format('y') }}",
    "{{ '{:>5}|{a}'.format('x', a=1) }}{{ '{a}'.format_map({'a': 2}) }}{{ '{0.__class__}'.format(1) }}",
    "{{ ', '.join(['a', 'b']) }}{{ 'a-b'.split('-') }}{{ 'a b'.split(maxsplit=1) }}{{ 'ab'.replace('a', 'cc') }}",
    "{{ 'a'.center(5) }}|{{ 'a' | center(5) }}|{{ 'a\nb' | indent(2) }}|{{ [1, 2, 3] | batch(2, 0) | list }}",
    "{{ messages | map(attribute='content') | join(', ') }}{{ messages | selectattr('role', 'eq', 'user') | list }}",
    "{{ [1, 2] | sum }}{{ [3, 1] | sort }}{{ 'abc' | reverse }}{{ {'a': 1} | dictsort }}{{ {'a': 1} | items | list }}",
    "{{ '<a>' | escape }}{{ '<a>' | safe }}{{ '<a>' | e ~ '<b>' }}",
    "{% autoescape true %}{{ '<a>' ~ 'b' }}{% endautoescape %}",
    "{% filter upper %}abc{% endfilter %}{% set x %}block{% endset %}{{ x }}{% set y | upper %}b{% endset %}{{ y }}",
    "{% include 'x' %}",
    "{% import 'x' as x %}",
    "{% extends 'x' %}",
    "{{ x | no_such_filter }}",
    "{% if false %}{{ x | no_such_filter }}{% endif %}fine",
    "{{ x is no_such_test }}",
    "{% for %}",
    "{{ 1 / 0 }}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ cls_token }}{{ add_generation_prompt }}{{ tools }}",
    "  {% if true %}  \n  x\n  {% endif %}\n  {#- c -#}  \n y \n",
    "{{ cycler('a', 'b').next() }}{% set j = joiner(',') %}{{ j() }}{{ j() }}",
    "{% for a, b in {'x': 1}.items() %}{{ a }}{{ b }}{% endfor %}{{ {'a': 1}.keys() }}",
    "{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(20) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
]


@pytest.mark.parametrize("source", SNIPPETS)
def test_jinja_behaves_as_in_transformers(source: str, reference: Any) -> None:
    messages = [user(), assistant("<Paris> & ü"), user("x")]
    ours, expected = both(source, reference, messages, {"add_generation_prompt": True})
    assert ours == expected

"""Answers as chat templates write them are parsed back to what was rendered, whole and cut anywhere.

The answer is cut out of a rendered conversation. It is then what a model that was trained on this template writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.markup.unseen_templates import UNSEEN
from tests.shared_case import SHARED
from worker_gguf.errors import TemplateError
from worker_gguf.markup.differences import common_prefix
from worker_gguf.markup.markup import Markup
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.markup.tool import Tool
from worker_gguf.template.chat_template import ChatTemplate

PUBLISHED = sorted((SHARED / "templates").glob("*.jinja"))
EOS = "<EOS>"

TOOLS = (
    Tool(
        "book_flight2",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "seats": {"type": "integer"},
                "price": {"type": "number"},
                "window": {"type": "boolean"},
                "meal": {"type": "boolean"},
                "guest": {"type": "object", "properties": {"name": {"type": "string"}, "ages": {"type": "array"}}},
                "stops": {"type": "array", "items": {"type": "string"}},
                "note": {"type": "string"},
                "empty": {"type": "string"},
            },
            "required": ["city"],
        },
        "Book a flight.",
    ),
    Tool("set_alarm", {"type": "object", "properties": {"time": {"type": "string"}}}, "Set an alarm."),
    Tool("now", {"type": "object", "properties": {}}, "The time."),
)
ALL_KINDS = {
    "city": 'São Paulo "GRU"',
    "seats": -3,
    "price": 12.5,
    "window": True,
    "meal": False,
    "guest": {"name": "O'Neill <b>", "ages": [1, 2]},
    "stops": ["a, b", "c}]"],
    "note": "first line\nsecond\tline \\ {not json}",
}


class Answer(NamedTuple):
    """What an answer has, as it is given to a template and as it comes out of the parser."""

    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    content: str = ""
    reasoning: str = ""


ONE = (("book_flight2", ALL_KINDS),)
TWO = (("set_alarm", {"time": "07:30"}), ("book_flight2", {"city": "Oslo", "stops": []}))
ANSWERS = {
    "one call": Answer(ONE),
    "one call, content": Answer(ONE, "I will book it.\nOne moment."),
    "one call, reasoning": Answer(ONE, "", "The user wants a flight.\n\nSo I book it."),
    "one call, content and reasoning": Answer(ONE, "I will book it.", "The user wants a flight."),
    "two calls": Answer(TWO),
    "two calls, content": Answer(TWO, "Both."),
    "no arguments": Answer((("now", {}),)),
    "content": Answer((), "A text with {braces}, [brackets] and <tags>."),
    "content and reasoning": Answer((), "It is 4.", "2 + 2 = 4, {so} I say <it>."),
}


class Model(NamedTuple):
    template: ChatTemplate
    markup: Markup


# Kimi's templates in llama.cpp append to a list, which the sandbox does not permit. The list is not needed here.
NOT_PERMITTED = "tool_response_queue.ids.append(formatted_id)"


@cache
def model_of(source: str) -> Model:
    template = ChatTemplate(source.replace(NOT_PERMITTED, "none"), bos_token="<BOS>", eos_token=EOS)
    refusing = ChatTemplate(source, bos_token="<BOS>", eos_token=EOS)
    return Model(template, Markup.of_template(source, refusing._render))


def rendered(template: ChatTemplate, answer: Answer | None, *, thinks: bool, opens: bool) -> str:
    """Render a question and perhaps its answer. Templates that fail with tools are rendered without."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What now?"}]
    if answer:
        calls = [
            {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(answer.calls)
        ]
        message: dict[str, Any] = {"role": "assistant", "content": answer.content or None}
        message |= {"tool_calls": calls} if calls else {}
        message |= {"reasoning_content": answer.reasoning} if answer.reasoning else {}
        messages.append(message)
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in TOOLS
    ]
    thinking = template.shape.thinking
    variables: dict[str, Any] = dict(thinking.of_switch(thinks, {}) or {})
    variables |= {"reasoning_effort": "high"} if thinks and thinking.efforts else {}
    try:
        return template.prompt(messages, tools=tools, add_generation_prompt=opens, variables=variables)
    except TemplateError:
        return template.prompt(messages, add_generation_prompt=opens, variables=variables)


def written(model: Model, answer: Answer) -> tuple[str, str]:
    """Return the prompt, and what the model writes after it. Raises TemplateError."""
    thinks = bool(answer.reasoning)
    start = rendered(model.template, None, thinks=thinks, opens=False)
    prompt = rendered(model.template, None, thinks=thinks, opens=True)
    turn = rendered(model.template, answer, thinks=thinks, opens=False)
    shared = common_prefix(common_prefix(start, prompt), turn)
    turn = shared + without_end(model, turn[len(shared) :])
    if turn.startswith(prompt):
        return prompt, turn[len(prompt) :]
    shared = common_prefix(prompt, turn)
    opened, text = prompt[len(shared) :], turn[len(shared) :]
    if answer.reasoning and text.lstrip().startswith(answer.reasoning):
        # The template writes the reasoning of the past without what opens it.
        return prompt, text
    ends = model.markup.format.reasoning_ends
    if ends and opened.strip() and ends[0].strip() not in opened:
        # The template leaves out reasoning of the past, which the prompt has opened: so it is ended at once.
        return prompt, ends[0] + text
    return shared, text


# End-of-generation tokens of the published templates. Their text is no part of an answer.
ENDS = (
    *(
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
        "<|calls|>",
        "<|call|>",
    ),
    *("<SPECIAL_12>", "<turn|>", "<|return|>", "<｜hy_eos:opensource｜>", "<|end_of_msg|>", EOS),
)


def without_end(model: Model, turn: str) -> str:
    """Cut off what stands for the end of generation, and all that is not written by the model."""
    plain = rendered(model.template, Answer((), "Qqqq"), thinks=False, opens=False).rpartition("Qqqq")[2]
    turn = turn.removesuffix(plain)
    return turn[: min((turn.index(end) for end in ENDS if end in turn), default=len(turn))]


def parsed(model: Model, prompt: str, pieces: Iterable[str]) -> Answer:
    """Parse an answer that comes in pieces."""
    parser = model.markup.parser(prompt, TOOLS)
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.feed(piece)
    return joined([*parts, *parser.end()])


def joined(parts: Sequence[Part]) -> Answer:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for part in parts:
        if isinstance(part, ToolCall):
            names.setdefault(part.number, part.name or "")
            arguments[part.number] = arguments.get(part.number, "") + part.arguments
    return Answer(
        tuple((name, json.loads(arguments[number])) for number, name in names.items()),
        "".join(part.text for part in parts if isinstance(part, Content)).strip(),
        "".join(part.text for part in parts if isinstance(part, Reasoning)).strip(),
    )


def as_shown(answer: Answer, text: str) -> Answer:
    """Return the answer without what the template left out of the text."""
    calls = tuple(call for call in answer.calls if call[0] in text)
    content = answer.content if answer.content in text else ""
    return Answer(calls, content, answer.reasoning if answer.reasoning in text else "")


# gpt-oss writes the content beside calls into its channel of thoughts, and Nemotron a turn of the past without the end
# of the thoughts that the prompt opens.
CONTENT_AS_REASONING = ("analysis<|message|>I will", "analysis<|message|>Both", "<SPECIAL_11>Assistant\n<think>\n")


def case(source: str, name: str) -> tuple[Model, Answer, str, str]:
    """Return a model, an answer, and how the model writes it. Skips what the template refuses or leaves out."""
    model, answer = model_of(source), ANSWERS[name]
    if not model.template.shape.has_calls or model.markup.format.must_be_stated:
        pytest.skip("the template writes no calls")
    try:
        prompt, text = written(model, answer)
    except TemplateError as error:
        pytest.skip(f"the template refuses this answer: {error}")
    if answer.content and any(sign in prompt + text for sign in CONTENT_AS_REASONING):
        pytest.skip("the template writes the content where the model thinks")
    shown = as_shown(answer, text)
    if shown.calls and shown.content and model.markup.format.only_at_start:
        pytest.skip("without marks, a call counts only where no content came before it")
    if bool(shown.calls) != bool(answer.calls) or (name.startswith("two") and len(shown.calls) < 2):
        pytest.skip("the template leaves the calls out")
    return model, shown, prompt, text


SOURCES = [
    *(pytest.param(path, id=path.stem) for path in PUBLISHED),
    *(pytest.param(name, id=name.replace(" ", "-")) for name in UNSEEN),
]


def source_of(key: Path | str) -> str:
    return key.read_text("utf-8") if isinstance(key, Path) else UNSEEN[key]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("key", SOURCES)
def test_an_answer_as_the_template_writes_it_gives_its_parts_back(key: Path | str, name: str) -> None:
    model, shown, prompt, text = case(source_of(key), name)
    assert parsed(model, prompt, [text]) == shown


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("key", SOURCES)
def test_an_answer_that_comes_character_by_character_gives_its_parts_back(key: Path | str, name: str) -> None:
    model, shown, prompt, text = case(source_of(key), name)
    assert parsed(model, prompt, text) == shown


@pytest.mark.parametrize("key", SOURCES)
def test_an_answer_in_two_pieces_gives_its_parts_back_wherever_it_is_cut(key: Path | str) -> None:
    source = source_of(key)
    name = "two calls" if model_of(source).markup.format.is_parallel else "one call"
    model, shown, prompt, text = case(source, name)
    for cut in range(len(text) + 1):
        assert parsed(model, prompt, [text[:cut], text[cut:]]) == shown, cut

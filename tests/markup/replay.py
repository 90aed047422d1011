"""Replays the recorded answers of canitoolcall through our parser. Each has the text of a model and what is in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from canitoolcall.chunking import DEFAULT_STRATEGIES, split
from canitoolcall.fixtures import Family, Fixture, load_fixtures
from canitoolcall.pytest_plugin import family_for
from canitoolcall.results import Observation, ParsedToolCall, ParseResult

from worker_gguf.markup import known_formats
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.parts import Content, Part, Reasoning
from worker_gguf.markup.tool import Tool

__all__ = [
    "FORMATS",
    "all_fixtures",
    "family_of",
    "format_of",
    "joined",
    "observe",
    "parse",
    "prompt_end_of",
    "tools_of",
    "variant_of",
]

# The formats of the models in the package, by the names that its files of families give to them.
FORMATS: dict[str, CallFormat] = {
    "deepseek-v3": known_formats.DEEPSEEK_R1,
    "deepseek-v31": known_formats.DEEPSEEK_V3_1,
    "deepseek-v32": known_formats.DEEPSEEK_V3_2,
    "deepseek-v4": known_formats.DEEPSEEK_V4,
    "deepseek-v41": known_formats.DEEPSEEK_V4_1,
    "devstral-2507": known_formats.MISTRAL_V13,
    "gemma4": known_formats.GEMMA_4,
    "glm45-newline": known_formats.GLM_4_5,
    "glm47-compact": known_formats.GLM_4_7,
    "glm53-compact": known_formats.GLM_4_7,
    "gpt-oss": known_formats.GPT_OSS,
    "kimi-k2-instruct": known_formats.KIMI_K2,
    "kimi-k2-thinking": known_formats.KIMI_K2_THINKING,
    "kimi-k3-xtml": known_formats.KIMI_K3,
    "llama3-json": known_formats.LLAMA_3,
    "llama4-pythonic": known_formats.LLAMA_4,
    "qwen3-coder": known_formats.QWEN3_CODER,
    "qwen3-coder-next": known_formats.QWEN3_CODER,
    "qwen3-hybrid": known_formats.QWEN3,
    "qwen3-instruct-2507": known_formats.HERMES,
    "qwen3-thinking-2507": known_formats.QWEN3,
    "qwen3.5": known_formats.QWEN3_5,
    "qwen3.8": known_formats.QWEN3_5,
    "v11": known_formats.MISTRAL_V11,
    "v11-think-text": known_formats.MAGISTRAL_TEXT,
    "v13": known_formats.MISTRAL_V13,
    "v13-think": known_formats.MAGISTRAL,
    "v3": known_formats.MISTRAL_V3,
}


@cache
def all_fixtures() -> tuple[Fixture, ...]:
    return tuple(load_fixtures(None))


def family_of(fixture: Fixture) -> Family:
    family = family_for(fixture)
    assert family is not None
    return family


def variant_of(fixture: Fixture) -> str:
    """Return the name of the format that the fixture's model writes."""
    reference = family_of(fixture).reference_for(fixture.models[0])
    assert reference is not None
    return str(reference.variant)


def format_of(fixture: Fixture) -> CallFormat:
    return FORMATS[variant_of(fixture)]


def prompt_end_of(fixture: Fixture) -> str:
    reference = family_of(fixture).reference_for(fixture.models[0])
    assert reference is not None
    default = str(reference.default_generation_prompt)
    return default if fixture.generation_prompt is None else fixture.generation_prompt


def tools_of(fixture: Fixture) -> list[Tool]:
    functions = [tool["function"] for tool in fixture.tools]
    return [Tool(function["name"], function.get("parameters") or {}) for function in functions]


def observe(fixture: Fixture, parse_pieces: Callable[[Sequence[str]], ParseResult]) -> Observation:
    """Parse a fixture whole, with every chunking of the package, and character by character."""
    text = fixture.raw_output
    tokens = _tokens(text, family_of(fixture).markers)
    special = {number for number, token in enumerate(tokens) if token in family_of(fixture).markers}
    streams = {"char:1": parse_pieces(list(text))}
    for strategy in DEFAULT_STRATEGIES:
        groups = split(list(range(len(tokens))), strategy, special)
        streams[strategy.id] = parse_pieces(["".join(tokens[number] for number in group) for group in groups])
    return Observation(parse_pieces([text]), streams)


def _tokens(text: str, markers: Iterable[str]) -> list[str]:
    """Cut a text as a tokeniser does: a marker is one token, and so is about each word. No tokeniser is at hand."""
    special = "|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True))
    return re.findall(rf"{special}| ?[^\W_]{{1,5}}|\s+|.", text, flags=re.DOTALL)


def parse(fixture: Fixture, pieces: Iterable[str], form: CallFormat, *, holds_calls: bool) -> ParseResult:
    parser = AnswerParser(form, prompt_end_of(fixture), tools_of(fixture), holds_calls=holds_calls)
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.feed(piece)
    return joined([*parts, *parser.end()])


def joined(parts: Iterable[Part]) -> ParseResult:
    """Join the parts as a client joins what is streamed to it."""
    content, reasoning = "", ""
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Content):
            content += part.text
        elif isinstance(part, Reasoning):
            reasoning += part.text
        elif part.name is not None:
            assert part.id is not None
            assert part.number == len(calls)
            calls.append((part.name, part.arguments))
        else:
            name, arguments = calls[part.number]
            calls[part.number] = (name, arguments + part.arguments)
    return ParseResult(content or None, reasoning or None, tuple(ParsedToolCall(*call) for call in calls))

"""Reads a call that is written as a call in Python: name(key='text', n=1, list=[...]).

Constants may be those of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from worker_gguf.markup.json_call import Outcome
from worker_gguf.markup.json_text import in_quotes
from worker_gguf.markup.offer import Offer, Parameters, python_as_json
from worker_gguf.markup.sink import Sink
from worker_gguf.markup.source import Source, Wait

__all__ = ["read_pythonic_call"]

_NAME = re.compile(r"[\w.\-]*")
_PLAIN = re.compile(r"[^\\'\"]*")
_SIMPLE = re.compile(r"[^\[\](){},'\"]*")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}

Write = Callable[[str], object]


def read_pythonic_call(source: Source, offer: Offer, sink: Sink) -> Wait[Outcome]:
    """Read one call from its name on."""
    written = yield from source.run(_NAME)
    name = offer.name(written)
    if name is None or (yield from source.skip_space()) != "(":
        return "cut" if source.is_over() and offer.has_beginning(written) else "text"
    source.at += 1
    source.forget()
    sink.open_call(name)
    sink.arguments("{")
    if not (yield from _read_arguments(source, offer.parameters(name), sink.arguments)):
        sink.drop_call()
        return "broken"
    sink.arguments("}")
    sink.close_call()
    return "call"


def _read_arguments(source: Source, parameters: Parameters, write: Write) -> Wait[bool]:
    separator = ""
    while True:
        character = yield from source.skip_space()
        if character == ")":
            source.at += 1
            return True
        if character == ",":
            source.at += 1
            continue
        key = parameters.key((yield from source.run(_NAME)))
        if not key or (yield from source.skip_space()) != "=":
            return False
        source.at += 1
        write(f'{separator}"{in_quotes(key)}": ')
        separator = ", "
        character = yield from source.skip_space()
        if character in ("'", '"') and character:
            if not (yield from _read_string(source, write)):
                return False
        elif not (yield from _read_value(source, write)):
            return False


def _read_string(source: Source, write: Write) -> Wait[bool]:
    """Read a string with its quotes, and write it as a JSON string as it comes."""
    quote = source.text[source.at]
    source.at += 1
    write('"')
    while True:
        yield from source.pour(_PLAIN, lambda text: write(in_quotes(text)))
        character = yield from source.peek()
        if character == "":
            return False
        source.at += 1
        if character == quote:
            write('"')
            return True
        write(in_quotes((yield from _read_escape(source)) if character == "\\" else character))


def _read_escape(source: Source) -> Wait[str]:
    """Read what follows a backslash and return what both mean. Python leaves an unknown escape as it is."""
    escaped = yield from source.peek()
    source.at += len(escaped)
    if escaped in _HEX_LENGTHS:
        digits = ""
        while len(digits) < _HEX_LENGTHS[escaped] and (character := (yield from source.peek())):
            digits += character
            source.at += 1
        try:
            return chr(int(digits, 16)).encode("utf-8", "replace").decode("utf-8")
        except (ValueError, OverflowError):
            return f"\\{escaped}{digits}"
    if escaped in ("'", '"', "\\"):
        return escaped
    return _SIMPLE_ESCAPES.get(escaped, "\\" + escaped)


def _read_value(source: Source, write: Write) -> Wait[bool]:
    """Read a number, a constant, a list or a dict, and write it when it is complete."""
    pieces: list[str] = []
    open_with: list[str] = []
    while True:
        pieces.append((yield from source.run(_SIMPLE)))
        character = yield from source.peek()
        if character == "" or (not open_with and character in ",)"):
            break
        if character in ("'", '"'):
            text: list[str] = []
            if not (yield from _read_string(source, text.append)):
                return False
            pieces.append(repr(json.loads("".join(text))))
            continue
        source.at += 1
        pieces.append(character)
        if character in _CLOSERS:
            open_with.append(_CLOSERS[character])
        elif character != "," and (not open_with or open_with.pop() != character):
            return False
    text_of_value = "".join(pieces).strip()
    value = python_as_json(text_of_value)
    if not text_of_value or character == "":
        return False
    write(value if value is not None else f'"{in_quotes(text_of_value)}"')
    return True

"""Reads a call that is a JSON object with the function's name and its arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

from worker_gguf.markup.call_format import JsonCall
from worker_gguf.markup.json_text import read_json, read_string
from worker_gguf.markup.offer import Offer
from worker_gguf.markup.sink import Sink
from worker_gguf.markup.source import Source, Wait

__all__ = ["ARGUMENTS_KEYS", "JsonCallReader", "Outcome", "read_arguments"]

# What became of a text that may be a call: a whole call; text that is none; a call that began and is not whole; the
# beginning of a call, up to the end of the answer; or what a model writes in the form of a call, but is content.
Outcome = Literal["call", "text", "broken", "cut", "content"]

ARGUMENTS_KEYS = ("arguments", "parameters")
"""Keys of the arguments that models write though their template has another."""
# Keys that models write though their template has others.
_NAME_KEYS = ("name",)
_FUNCTION_KEY = "function"
_OTHER_KEYS = ("type", "id")


class JsonCallReader:
    """Reads one such object after another. With `is_strict`, an object with any other key is no call."""

    def __init__(self, keys: JsonCall, is_strict: bool) -> None:
        self._is_name_key = keys.is_name_key
        self._name_keys = {keys.name_key, *_NAME_KEYS} - {""}
        self._arguments_keys = {keys.arguments_key, *ARGUMENTS_KEYS} - {""}
        self._function_keys = {keys.function_key, _FUNCTION_KEY} - {""}
        self._other_keys = {keys.id_key, *_OTHER_KEYS, *(key for key, _ in keys.constants)} - {""}
        self._is_strict = is_strict

    def read(self, source: Source, offer: Offer, sink: Sink) -> Wait[Outcome]:
        """Read the object from its brace on. As soon as name and arguments have begun, the call is opened."""
        call = _Call(source, offer, sink, self._is_strict)
        source.at += 1
        depth = 1
        while depth:
            character = yield from source.skip_space()
            if character == "}":
                depth -= 1
            elif character == '"':
                key = yield from _string(source)
                if key is None or (yield from source.skip_space()) != ":":
                    return call.failed()
                source.at += 1
                if (yield from source.skip_space()) == "{" and key in self._function_keys:
                    depth += 1
                elif not (yield from self._read_value(call, source, key)):
                    return call.failed()
                else:
                    continue
            elif character != ",":
                return call.failed()
            source.at += 1
        return call.ended()

    def _read_value(self, call: _Call, source: Source, key: str) -> Wait[bool]:
        character = yield from source.peek()
        if self._is_name_key and not call.name:
            return call.named(key) and (yield from call.read_arguments())
        if key in self._name_keys and not call.name and character == '"':
            return call.named((yield from _string(source)) or "")
        if key in self._arguments_keys and not call.has_arguments:
            return (yield from call.read_arguments())
        if self._is_strict and key not in self._other_keys:
            return False
        return (yield from read_json(source, _drop)) is not None


class _Call:
    """What is known of a call so far. It is opened when its name is known, if `is_strict` also its arguments.

    Arguments that come before the name are held until then.
    """

    def __init__(self, source: Source, offer: Offer, sink: Sink, is_strict: bool) -> None:
        self._is_strict = is_strict
        self._source = source
        self._offer = offer
        self._sink = sink
        self._held: list[str] = []
        self._last = ""
        self.name = ""
        self.is_open = False
        self.has_arguments = False

    def named(self, written: str) -> bool:
        name = self._offer.name(written)
        if name is None:
            return False
        self.name = name
        if self.has_arguments or not self._is_strict:
            self._open()
        return True

    def _open(self) -> None:
        self.is_open = True
        self._source.forget()
        self._sink.open_call(self.name)
        for text in self._held:
            self._sink.arguments(text)

    def read_arguments(self) -> Wait[bool]:
        self.has_arguments = True
        if self.name and not self.is_open:
            self._open()
        last = yield from read_arguments(self._source, self._sink.arguments if self.name else self._held.append)
        self._last = last or ""
        return last is not None

    def failed(self) -> Outcome:
        if not self.is_open:
            return "cut" if self._source.is_over() else "text"
        self._sink.drop_call()
        return "broken"

    def ended(self) -> Outcome:
        if self.name and not self.is_open and not self._is_strict:
            self._open()
        if not self.is_open:
            return "text"
        self._sink.arguments(self._last if self.has_arguments else "{}")
        self._sink.close_call()
        return "call"


def read_arguments(source: Source, write: Callable[[str], object]) -> Wait[str | None]:
    """Read the arguments of a call and write them as the text of a JSON object without its last brace.

    That brace is returned, or None if there is no object. Some models write the object as a JSON string, and some null
    or an empty string or list for no arguments.
    """
    if (yield from source.peek()) == "{":
        return (yield from read_json(source, write))
    value: list[str] = []
    last = yield from read_json(source, value.append)
    try:
        arguments = json.loads("".join(value) + (last or ""))
        if isinstance(arguments, str) and arguments.strip():
            arguments = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    if arguments and not isinstance(arguments, dict):
        return None
    write(json.dumps(arguments or {}, ensure_ascii=False)[:-1])
    return "}"


def _string(source: Source) -> Wait[str | None]:
    text: list[str] = []
    last = yield from read_string(source, text.append)
    return None if last is None else str(json.loads("".join(text) + last))


def _drop(text: str) -> None:
    """A value of a key that does not matter."""

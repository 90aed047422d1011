"""Reads a JSON value from an answer, character by character in the sense of JSON, and passes its text on as it comes.

The text that is passed on is valid JSON when the value is complete. What models get wrong and what has one meaning only
is mended on the way: line breaks in strings, a comma after the last item, True, False and None. Any other fault ends
the value as broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from worker_gguf.markup.source import Source, Wait

__all__ = ["in_quotes", "read_json", "read_string"]

Write = Callable[[str], object]

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_WORD = re.compile(r"[-+.\w]*")
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LITERALS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CLOSER = {"{": "}", "[": "]"}
_ESCAPED = '"\\/bfnrt'
_HEX = frozenset("0123456789abcdefABCDEF")


def in_quotes(text: str) -> str:
    """Return the text as it stands in a JSON string, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def read_json(source: Source, write: Write) -> Wait[str | None]:
    """Read one value and write its text without the last character, which is returned, or None if it is broken.

    The source must be at the value's first character. A reader that holds the last character back until the call
    around the value is complete never lets half a call look like a whole one.
    """
    open_with: list[str] = []
    while True:
        opener = yield from source.peek()
        if opener and opener in _CLOSER:
            source.at += 1
            write(opener)
            open_with.append(opener)
            write((yield from source.run(_SPACE)))
            if (yield from source.peek()) != _CLOSER[opener]:
                if opener == "{" and not (yield from _read_key(source, write)):
                    return None
                continue
        else:
            last = yield from _read_scalar(source, write, opener)
            if last is None or not open_with:
                return last
            write(last)
        closer = yield from _read_end_of_item(source, write, open_with)
        if closer != "":
            return closer


def _read_end_of_item(source: Source, write: Write, open_with: list[str]) -> Wait[str | None]:
    """Read from the end of a value to the beginning of the next, with its key.

    Returns "" there, the last character if that was the last value of all, and None if something else is there.
    """
    while True:
        space = yield from source.run(_SPACE)
        character = yield from source.peek()
        if character == ",":
            source.at += 1
            space += yield from source.run(_SPACE)
            character = yield from source.peek()
            if character != _CLOSER[open_with[-1]]:
                write("," + space)
                return "" if open_with[-1] == "[" or (yield from _read_key(source, write)) else None
        if character != _CLOSER[open_with[-1]]:
            return None
        source.at += 1
        open_with.pop()
        write(space)
        if not open_with:
            return character
        write(character)


def _read_key(source: Source, write: Write) -> Wait[bool]:
    if (yield from source.peek()) != '"':
        return False
    last = yield from read_string(source, write)
    space = yield from source.run(_SPACE)
    if last is None or (yield from source.peek()) != ":":
        return False
    source.at += 1
    write(last + space + ":")
    write((yield from source.run(_SPACE)))
    return True


def _read_scalar(source: Source, write: Write, character: str) -> Wait[str | None]:
    if character == '"':
        return (yield from read_string(source, write))
    word = yield from source.run(_WORD)
    text = _LITERALS.get(word) or (word if _NUMBER.fullmatch(word) else "")
    write(text[:-1])
    return text[-1:] or None


def read_string(source: Source, write: Write) -> Wait[str | None]:
    """Read a string from its opening quote on and write it without the closing quote, which is returned."""
    write('"')
    source.at += 1
    while True:
        match = _PLAIN.match(source.text, source.at)
        if match is not None and match.end() > source.at:
            write(match.group())
            source.at = match.end()
        character = yield from source.peek()
        if character == "":
            return None
        if character == '"':
            source.at += 1
            return '"'
        if character == "\\":
            if not (yield from _read_escape(source, write)):
                return None
        elif ord(character) < ord(" "):
            write(in_quotes(character))
            source.at += 1


def _read_escape(source: Source, write: Write) -> Wait[bool]:
    """Read a backslash and what it escapes. One that escapes nothing in JSON stands for itself."""
    source.at += 1
    escaped = yield from source.peek()
    if escaped == "":
        return False
    source.at += 1
    if escaped in _ESCAPED:
        write("\\" + escaped)
        return True
    if escaped != "u":
        write("\\\\" + in_quotes(escaped))
        return True
    digits = ""
    while len(digits) < 4 and (yield from source.peek()) in _HEX:
        digits += source.text[source.at]
        source.at += 1
    write("\\u" + digits if len(digits) == 4 else "\\\\u" + digits)
    return not (source.ended and source.at >= len(source.text))

"""Reads the arguments of a call as Gemma 4 writes them: {key:<|"|>text<|"|>,n:1,list:[...],object:{...}}, keys bare."""

from __future__ import annotations

import re
from collections.abc import Callable

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.json_text import in_quotes, read_string
from worker_gguf.markup.offer import literal_as_json
from worker_gguf.markup.source import NOWHERE, Source, Wait, markers

__all__ = ["GemmaReader"]

_KEY = re.compile(r"[^:{}\[\],\"<]*")
_BARE = re.compile(r"[^,{}\[\]<]*")
_AFTER_TEXT = markers(",", "}", "]")
_CLOSER = {"{": "}", "[": "]"}

Write = Callable[[str], object]


class GemmaReader:
    """Reads the arguments of one call after another, of one format."""

    def __init__(self, form: CallFormat) -> None:
        self._quote = markers(form.string_quote or '"')

    def read(self, source: Source, write: Write) -> Wait[bool]:
        """Read up to the closing brace, after the opening one, and write JSON. False if it is not complete."""
        open_with = ["{"]
        write("{")
        is_first = True
        while open_with:
            opener = open_with[-1]
            character = yield from source.skip_space()
            if character == "":
                return False
            if character == _CLOSER[opener]:
                source.at += 1
                open_with.pop()
                write(character)
                is_first = False
                continue
            if character == ",":
                source.at += 1
                continue
            if not is_first:
                write(", ")
            is_first = False
            if opener == "{" and not (yield from self._read_key(source, write)):
                return False
            character = yield from source.skip_space()
            if character and character in _CLOSER:
                source.at += 1
                open_with.append(character)
                write(character)
                is_first = True
            elif not (yield from self._read_scalar(source, write)):
                return False
        return True

    def _read_key(self, source: Source, write: Write) -> Wait[bool]:
        if (yield from source.peek()) == '"':
            last = yield from read_string(source, write)
        else:
            key: list[str] = []
            if (yield from source.take(self._quote)) != NOWHERE:
                yield from source.until(self._quote, key.append)
            else:
                key.append((yield from source.run(_KEY)))
            write(f'"{in_quotes("".join(key).strip())}')
            last = '"'
        if last is None or (yield from source.skip_space()) != ":":
            return False
        source.at += 1
        write(last + ": ")
        return True

    def _read_scalar(self, source: Source, write: Write) -> Wait[bool]:
        if (yield from source.take(self._quote)) != NOWHERE:
            return (yield from self._read_text(source, write))
        if (yield from source.peek()) == '"':
            last = yield from read_string(source, write)
            write(last or "")
            return last is not None
        text = (yield from source.run(_BARE)).strip()
        if not text or (yield from source.peek()) == "":
            return False
        write(literal_as_json(text) or f'"{in_quotes(text)}"')
        return True

    def _read_text(self, source: Source, write: Write) -> Wait[bool]:
        """Read a text up to the quote that ends it. A quote within it is not followed by what could come next."""

        def write_quoted(text: str) -> None:
            write(in_quotes(text))

        write('"')
        while (hit := (yield from source.until(self._quote, write_quoted))).number != NOWHERE:
            quote = source.text[hit.start : hit.end]
            if (yield from source.follows(_AFTER_TEXT)) != NOWHERE or source.is_over():
                write('"')
                return True
            write_quoted(quote)
        return False

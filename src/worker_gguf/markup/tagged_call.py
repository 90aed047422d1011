"""Reads the arguments of a call whose values stand between marks, and writes them as JSON.

A value may have the text of a mark in it. So a mark ends a value only if what follows could come next: another value or
the end of the call. Models also forget the mark at the end of a value; then the next one's beginning, or the call's end
with nothing but another call after it, ends the value.
"""

from __future__ import annotations

from collections.abc import Callable

from worker_gguf.markup.call_format import CallFormat, TaggedValues
from worker_gguf.markup.json_text import in_quotes, read_json
from worker_gguf.markup.nested_values import nested_as_json
from worker_gguf.markup.offer import Parameters, as_json
from worker_gguf.markup.source import NOWHERE, Markers, Source, Wait, markers

__all__ = ["TaggedReader"]

Write = Callable[[str], object]

# The numbers of the markers at which a value begins or the call ends; those after them begin something else.
_VALUE, _END, _FIRST_END = 0, 1, 2
# The numbers of the markers that may end a value.
_VALUE_END, _NEXT_VALUE, _CALL_END = 0, 1, 2


class TaggedReader:
    """Reads the arguments of one call after another, of one format."""

    def __init__(self, form: CallFormat, values: TaggedValues) -> None:
        self._values = values
        self._known_keys: tuple[Parameters, Markers] | None = None
        call_end = form.call_end or form.section_end
        others = (form.section_end, form.call_start, form.section_start)
        self._next = markers(values.key_start, call_end, form.first_call_end, *others)
        self._after_call = markers(*others, *form.other_starts)
        self._key_end = markers(values.type_start, values.key_end)
        self._type_end = markers(values.key_end)
        self._value_start = markers(values.value_start)
        self._line = markers("\n") if (values.value_start or values.key_end).endswith("\n") else None
        marks = (values.value_end, values.key_start, call_end)
        self._value_end = markers(*marks)
        self._value_end_line = markers(*marks, lead="\n")

    def read(self, source: Source, parameters: Parameters, write: Write) -> Wait[bool]:
        """Read from the first value up to the end of the call and write the arguments. False if it is not complete."""
        write("{")
        keys: set[str] = set()
        while True:
            yield from source.skip_space()
            hit = yield from source.until(self._next, _drop)
            if hit.number == NOWHERE:
                return False
            if hit.number != _VALUE:
                if hit.number > _FIRST_END:
                    source.unread(source.text[hit.start : hit.end])
                write("}")
                return True
            key, word = yield from self._read_key(source)
            key = parameters.key(key)
            # An object with the same key twice means something else to each client.
            write_value = _drop if key in keys else write
            write_value(f'{", " if keys else ""}"{in_quotes(key)}": ')
            keys.add(key)
            if not (yield from self._read_value(source, parameters, key, word, write_value)):
                return False

    def _read_key(self, source: Source) -> Wait[tuple[str, str]]:
        """Read a key and the word for its type, "" if there is none, and what stands before the value."""
        key: list[str] = []
        word: list[str] = []
        if (yield from source.until(self._key_end, key.append)).number == 0:
            yield from source.until(self._type_end, word.append)
        if self._values.value_start:
            yield from source.skip_space()
            yield from source.take(self._value_start)
        return "".join(key), "".join(word).strip()

    def _read_value(self, source: Source, parameters: Parameters, key: str, word: str, write: Write) -> Wait[bool]:
        ends = self._value_end
        if self._values.key_close:
            ends = Markers((f"{self._values.value_end}{key}{self._values.key_close}",))
        elif self._line is not None and (yield from source.take(self._line)) != NOWHERE:
            ends = self._value_end_line
        types = parameters.types(key)
        if word:
            types = frozenset({"string"}) if word in self._values.text_types else types - {"string"}
        if self._values.is_json and (yield from source.skip_space()) == '"':
            write((yield from read_json(source, write)) or "")
            return (yield from self._read_text(source, parameters, ends, _drop))
        if types == {"string"}:
            write('"')
            is_complete = yield from self._read_text(source, parameters, ends, lambda text: write(in_quotes(text)))
            write('"' if is_complete else "")
            return is_complete
        value: list[str] = []
        is_complete = yield from self._read_text(source, parameters, ends, value.append)
        if is_complete:
            text = "".join(value)
            is_nested = self._values.is_nested
            write(nested_as_json(text, self._values, key, parameters) if is_nested else as_json(text, types))
        return is_complete

    def _read_text(self, source: Source, parameters: Parameters, ends: Markers, write: Write) -> Wait[bool]:
        """Write the text up to the mark that ends the value, and read that mark if it is the value's own."""
        while True:
            hit = yield from source.until(ends, write)
            if hit.number == NOWHERE:
                return False
            mark = source.text[hit.start : hit.end]
            if (yield from self._is_end(source, parameters, hit.number, mark)):
                if hit.number != _VALUE_END:
                    source.unread(mark)
                return True
            write(mark[0])
            source.unread(mark[1:])

    def _is_end(self, source: Source, parameters: Parameters, number: int, mark: str) -> Wait[bool]:
        """Whether the mark that was just read ends the value, by what follows it."""
        if number == _VALUE_END:
            return (yield from source.follows(self._next)) != NOWHERE or source.is_over()
        if number == _NEXT_VALUE:
            is_line = self._line is None or mark.startswith("\n")
            return is_line and (yield from source.follows(self._keys(parameters))) != NOWHERE
        return (yield from source.follows(self._after_call)) != NOWHERE or source.is_over()

    def _keys(self, parameters: Parameters) -> Markers:
        """Return what the known keys look like after the mark that begins a value."""
        if self._known_keys is None or self._known_keys[0] is not parameters:
            ends = [end for end in (self._values.type_start, self._values.key_end) if end]
            self._known_keys = (parameters, Markers(key + end for key in parameters for end in ends))
        return self._known_keys[1]


def _drop(text: str) -> None:
    """Text between values means nothing."""

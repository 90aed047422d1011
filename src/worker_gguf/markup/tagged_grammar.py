"""The arguments of a call whose values stand between marks, as an expression of Lark.

A value that is a raw text may have any text in it but one that its parser takes for its end: the mark at its end with
another value or the call's end after it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import NamedTuple

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.argument_schema import OTHER_KEY, Arguments, object_of, sizes_of
from worker_gguf.markup.call_format import CallFormat, TaggedValues
from worker_gguf.markup.json_value import json_value
from worker_gguf.markup.lark import LarkGrammar, either, literal, optional
from worker_gguf.markup.marks import Marks
from worker_gguf.markup.named_items import Item, items_in_any_order
from worker_gguf.markup.tool_schema import Bounds, ToolSchema, too_complex

__all__ = ["TaggedArguments"]

_ANY_KEY = r'/[^<>"\n]+/'
_ANY_TEXT = "/(?s:.*)/"
_SOME_TEXT = "/(?s:.+)/"
# How templates that write Python's words for JSON's write them.
_PYTHON_WORDS = {"boolean": ("True", "False"), "null": ("None",)}
# The key of each item of an array whose items are values in values.
_ITEM = "item"
_MOST_RULES = 2000
_NESTED = frozenset({"array", "object"})
_JSON_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})


class _Way(NamedTuple):
    """A way to write a value: `head` comes between the key and the value. A value of "" is a raw text. `is_text` tells
    that the value is a text that is given, before and after which no white space may be added."""

    head: str
    value: str = ""
    is_text: bool = False


class TaggedArguments:
    """Writes the arguments of tools into one grammar."""

    def __init__(self, grammar: LarkGrammar, marks: Marks, form: CallFormat, values: TaggedValues) -> None:
        self._grammar = grammar
        self._marks = marks
        self._form = form
        self._values = values
        self._close = form.call_end or form.section_end
        self._texts: dict[str, str] = {}
        self._rules: dict[tuple[str, str, ToolSchema], str] = {}
        # A line break after the last mark before a value, and one before the mark at its end, are not part of it.
        self._is_on_lines = (values.value_start or values.key_end).endswith("\n")

    def expression(self, arguments: Arguments) -> str:
        """Return an expression for all values and the end of the call, from where the first value may begin."""
        marks, values = self._marks, self._values
        items = [
            self._item(_written(key, values), key, schema, arguments)._replace(is_required=key in arguments.required)
            for key, schema in arguments.properties.items()
        ]
        others = None
        if arguments.others is not None and not values.key_close:
            known = either(map(literal, arguments.properties)) if arguments.properties else ""
            key = self._grammar.terminal(f"{OTHER_KEY} & ~{known}" if known else OTHER_KEY)
            others = self._item(key, "", arguments.others, arguments)
        start = marks.expression(values.key_start)
        return items_in_any_order(
            self._grammar,
            items,
            others=others,
            first=start,
            between=f"{marks.expression(values.value_separator)} {start}",
            close=marks.expression(self._close, space_after=False),
        )

    def _item(self, key: str, name: str, schema: object, arguments: Arguments) -> Item:
        """Return the item of a key; `name` is "" for a key that the schema does not name."""
        marks = self._marks
        values = self._values
        end = values.value_end + (name + values.key_close if values.key_close else "")
        raw, fixed = [], []
        for way in self._ways(schema, arguments):
            if way.is_text:
                closed = f"{way.value} {marks.expression(end, space_before=False)}"
                on_lines = f'"\\n" {way.value} "\\n" {marks.expression(end, space_before=False)}'
                fixed.append(f"{way.head} {either([on_lines, closed] if self._is_on_lines else [closed])}")
            elif way.value:
                fixed.append(f"{way.head} {way.value} {marks.expression(end)}")
            else:
                raw.append(way.head)
        if values.is_nested:
            fixed += self._nested_ways(end, schema, arguments)
        if not fixed and not raw:
            raise InvalidRequest("The schema of a tool has an argument for which no value is possible.", param="tools")
        # Next to other values, a bounded text may hide those that are written with more characters: then the grammar is
        # narrower than the schema.
        bounds = arguments.schema.text_bounds(schema)
        if raw and not self._can_look_ahead(end):
            fixed += [f"{head} {self._raw_text(end, bounds)}" for head in raw]
            raw = []
        whole = f"{key} {self._grammar.rule(either(fixed))}" if fixed else ""
        if not raw:
            return Item(whole)
        body = self._body(self._not_the_end(end), bounds)
        head, space = f"{key} {either(raw)}", f"{marks.space}?"
        between = f"{marks.terminal(values.value_separator)} {space}" if values.value_separator.strip() else ""
        more = f"{body} {marks.terminal(end)} {space} {between} {marks.terminal(values.key_start)}"
        close = f"{body} {marks.terminal(end)} {space} {marks.terminal(self._close)}"
        return Item(
            whole,
            before_more=f"{head} {self._grammar.rule(more, 'lazy')} {space}",
            before_close=f"{head} {self._grammar.rule(close, 'lazy')}",
        )

    def _ways(self, schema: object, arguments: Arguments) -> Iterator[_Way]:
        values = self._values
        types = arguments.schema.types(schema)
        if values.is_json:
            yield _Way(self._head(""), json_value(schema, arguments.schema.root, is_lenient=arguments.is_lenient))
            return
        for word in values.types if values.type_start else ("",):
            allowed = types & _types_of_word(word, values)
            if "string" in allowed:
                texts = arguments.schema.texts(schema)
                head = self._head(word, space_after=False)
                if texts:
                    yield _Way(head, self._one_of(texts), is_text=True)
                elif texts is None:
                    yield _Way(head)
                    if arguments.schema.text_bounds(schema) is None:
                        continue  # a value of any other type is also such a text
            if rest := allowed - {"string"} - (_NESTED if values.is_nested else frozenset()):
                yield from self._json_ways(self._head(word), schema, rest, arguments, is_alone="string" not in allowed)

    def _nested_ways(self, end: str, schema: object, arguments: Arguments) -> Iterator[str]:
        """Yield the ways to write an object or an array as values in values, with the mark at its end."""
        marks, values = self._marks, self._values
        types = arguments.schema.types(schema)
        own = arguments.schema.merged(schema)
        start, close = marks.expression(values.key_start), marks.expression(end)
        head = marks.expression(values.key_end)
        if "object" in types:
            shape = object_of(own, arguments.schema, is_lenient=arguments.is_lenient)
            items = [
                Item(self._named(key, one, shape), is_required=key in shape.required)
                for key, one in shape.properties.items()
            ]
            members = items_in_any_order(self._grammar, items, others=None, first=start, between=start, close=close)
            yield f"{head} {members}"
        if "array" in types:
            item = f"{start} {self._named(_ITEM, own.get('items', True), arguments)}"
            least, most = sizes_of(own)
            if most != 0:
                yield f"{head} ({item}){{{least},{'' if most is None else most}}} {close}"

    def _named(self, key: str, schema: object, arguments: Arguments) -> str:
        """Return the rule of a key and its value inside another value."""
        text = json.dumps(schema)
        arguments.schema.count(n_characters=len(text))
        known = (key, text, arguments.schema)
        if known not in self._rules:
            if len(self._rules) == _MOST_RULES:
                raise too_complex()
            self._rules[known] = self._grammar.reserve()
            self._grammar.define(self._rules[known], self._item(literal(key), key, schema, arguments).whole)
        return self._rules[known]

    def _json_ways(
        self, head: str, schema: object, types: frozenset[str], arguments: Arguments, *, is_alone: bool
    ) -> Iterator[_Way]:
        """Yield the ways to write a value of these types, as JSON or as a word of Python."""
        words: list[str] = []
        if isinstance(schema, dict) and not schema.keys() & {"enum", "const"}:
            words = [literal(word) for kind in sorted(types) for word in _PYTHON_WORDS.get(kind, ())]
        if types != arguments.schema.types(schema):
            schema = {"allOf": [schema, {"type": sorted(types)}]}
        is_spaced = is_alone and not words
        value = json_value(schema, arguments.schema.root, is_lenient=arguments.is_lenient, is_spaced=is_spaced)
        yield _Way(head, either([value, *words]))

    def _head(self, word: str, *, space_after: bool = True) -> str:
        """Return an expression for what comes between a key and its value."""
        values, marks = self._values, self._marks
        kind = f"{marks.expression(values.type_start)} {literal(word)} " if word else ""
        start = marks.expression(values.value_start, space_after=space_after)
        return f"{kind}{marks.expression(values.key_end, space_after=bool(start) or space_after)} {start}"

    def _one_of(self, texts: tuple[str, ...]) -> str:
        return self._grammar.terminal(either(literal(text) or '""' for text in texts))

    def _can_look_ahead(self, end: str) -> bool:
        """Whether the marks after a value are texts, which a terminal can have, and tell what follows it.

        Where the end of the call begins as the next value does, the first mark at the end of a value ends it.
        """
        start = self._values.key_start.strip()
        is_text = all(map(self._marks.is_text, (end, start, self._close)))
        return is_text and not self._close.strip().startswith(start)

    def _raw_text(self, end: str, bounds: Bounds | None) -> str:
        """Return an expression for a raw text and the mark at its end, where control tokens tell the end."""
        first, *rest = self._marks.pieces(end)
        if isinstance(first.content, int):
            body = self._grammar.terminal(self._body(_SOME_TEXT, bounds))
            body = body if bounds and bounds.least else optional(body)
            return f"{body} {self._marks.expression(end, space_before=False)}"
        text = self._grammar.rule(f"{self._body(_ANY_TEXT, bounds)} {self._marks.terminal(first.content)}", "lazy")
        return " ".join([text, *map(self._marks.written, rest), f"{self._marks.space}?"])

    def _body(self, text: str, bounds: Bounds | None) -> str:
        """Return the body of a terminal for a raw text whose length is bounded."""
        if bounds is None:
            return text
        most = "" if bounds.most is None else str(bounds.most)
        sized = f"({text} & /(?s:.){{{bounds.least},{most}}}/)"
        return f'("\\n" {sized} "\\n")' if self._is_on_lines else sized

    def _not_the_end(self, end: str) -> str:
        """Return the body of a terminal for a text in which nothing ends a value."""
        if end in self._texts:
            return self._texts[end]
        form, marks, values = self._form, self._marks, self._values
        calls = [form.section_end, form.call_start, form.section_start]
        pairs = [(end, follower) for follower in (values.key_start, self._close, *calls)]
        if not values.key_close:
            pairs += [(self._close, follower) for follower in (*calls, *form.other_starts)]
        faults = [
            f"{marks.excluded(mark)} {marks.any_space} {marks.excluded(follower)}"
            for mark, follower in pairs
            if marks.is_text(follower)
        ]
        # Another value ends one whose mark at the end is missing.
        line = '"\\n" ' if self._is_on_lines else ""
        key = f"{line}{marks.excluded(values.key_start)} {marks.any_space} {_ANY_KEY} {marks.any_space}"
        faults += [
            f"{key} {marks.excluded(mark)}"
            for mark in (values.type_start, values.key_end)
            if marks.is_text(mark) and not values.key_close
        ]
        # Without the first part, the complement would also have bytes that are no text, such as control tokens.
        self._texts[end] = f"({_ANY_TEXT} & ~({_ANY_TEXT} {either(faults)} {_ANY_TEXT}))"
        return self._texts[end]


def _types_of_word(word: str, values: TaggedValues) -> frozenset[str]:
    """Return the JSON types of a value with this word as its type; "" stands for a format without such words."""
    if not word:
        return _JSON_TYPES
    if word in values.text_types:
        return frozenset({"string"})
    if word == "number":
        return frozenset({"number", "integer"})
    return frozenset({word}) if word in _JSON_TYPES else _JSON_TYPES - {"string"}


def _written(key: str, values: TaggedValues) -> str:
    """Return an expression for a key, which may be escaped where it is an attribute of a tag."""
    escaped = html.escape(key)
    return either([literal(escaped), literal(key)] if values.key_end.startswith('"') else [literal(key)])

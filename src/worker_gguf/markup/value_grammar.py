"""Values that match a JSON Schema and are written in another language than JSON, as expressions of Lark.

What of a schema cannot be expressed is left out: then more values are allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.argument_schema import Arguments, object_of, sizes_of
from worker_gguf.markup.json_value import json_value
from worker_gguf.markup.lark import LarkGrammar, either, literal
from worker_gguf.markup.named_items import Item, items_in_any_order
from worker_gguf.markup.notation import Notation
from worker_gguf.markup.tool_schema import ToolSchema, too_complex

__all__ = ["ValueGrammar"]

_TYPES = ("string", "number", "boolean", "null", "array", "object")
_OF_NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_MOST_RULES = 2000
_STEPS_OF_MEMBER = 8


class ValueGrammar:
    """Writes the values of one tool into a grammar. `schema` is that of the tool, in which references are found."""

    def __init__(self, grammar: LarkGrammar, notation: Notation, schema: ToolSchema, is_lenient: bool) -> None:
        self._grammar = grammar
        self._notation = notation
        self._schema = schema
        self._is_lenient = is_lenient
        self._rules: dict[str, str] = {}
        # By the identity of the schema, which is kept so that no other can have it.
        self._written: dict[int, tuple[object, str]] = {}

    def value(self, schema: object) -> str:
        """Return the name of a rule for a value. A schema that refers to itself becomes a rule that does so too."""
        own = self._schema.merged(schema)
        written = self._written.get(id(own))
        if written is None:
            written = self._written[id(own)] = (own, self._rule(own))
        return written[1]

    def _rule(self, schema: Mapping[str, Any]) -> str:
        known = json.dumps(schema, sort_keys=False)
        self._schema.count(n_characters=len(known))
        name = self._rules.get(known)
        if name is None:
            if len(self._rules) == _MOST_RULES:
                raise too_complex()
            name = self._rules[known] = self._grammar.reserve()
            self._grammar.define(name, self._options(schema))
        return name

    def members(
        self,
        arguments: Arguments,
        key: Callable[[str], str],
        other_key: Callable[[Collection[str]], str],
        close: str,
    ) -> str:
        """Return an expression for the members of an object and what closes it.

        `key` writes the name of a member, and `other_key` any name but the given ones.
        """
        self._schema.count(_STEPS_OF_MEMBER * len(arguments.properties))
        items = [
            Item(f"{key(name)} {self.value(one)}", is_required=name in arguments.required)
            for name, one in arguments.properties.items()
        ]
        others = None
        if arguments.others is not None:
            others = Item(f"{other_key(arguments.properties)} {self.value(arguments.others)}")
        return items_in_any_order(
            self._grammar, items, others=others, first="", between=self._notation.comma, close=close
        )

    def _options(self, schema: Mapping[str, Any]) -> str:
        if "const" in schema:
            return self._constant(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return either(map(self._constant, schema["enum"]))
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list) and schema[keyword]:
                beside = {key: value for key, value in schema.items() if key != keyword}
                return either(self.value({"allOf": [beside, option]}) for option in schema[keyword])
        return either(self._of_type(kind, schema) for kind in _types(schema))

    def _of_type(self, kind: str, schema: Mapping[str, Any]) -> str:
        notation = self._notation
        match kind:
            case "string":
                return notation.any_text(self._schema.text_bounds(schema))
            case "number" | "integer":
                limits = {key: schema[key] for key in _OF_NUMBERS if key in schema}
                number = {"type": kind, **limits}
                return json_value(number, number, is_lenient=self._is_lenient, is_spaced=False)
            case "boolean":
                return either([notation.true, notation.false])
            case "null":
                return notation.null
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
            case _:
                raise InvalidRequest(
                    f"The schema of a tool has the type {kind!r}, which is none of JSON Schema.", param="tools"
                )

    def _object(self, schema: Mapping[str, Any]) -> str:
        members = object_of(schema, self._schema, is_lenient=self._is_lenient)
        return f'"{{" {self.members(members, self._notation.key, self._notation.other_key, chr(34) + "}" + chr(34))}'

    def _array(self, schema: Mapping[str, Any]) -> str:
        first = schema.get("prefixItems")
        prefix = first if isinstance(first, list) else []
        least, most = sizes_of(schema)
        items = schema.get("items", True)
        rest = None if items is False else self.value(items)
        return f'"[" {self._items([self.value(one) for one in prefix], rest, least, most)} "]"'

    def _items(self, prefix: Sequence[str], rest: str | None, least: int, most: int | None) -> str:
        """Return an expression for at least and at most so many items, the first of which are given."""
        comma = self._notation.comma
        n_prefix = len(prefix) if most is None else min(len(prefix), most)
        tail = ""
        if rest is not None and (most is None or most > n_prefix):
            fewest = max(least - n_prefix, 0)
            largest = "" if most is None else most - n_prefix
            if n_prefix:
                tail = f"({comma} {rest}){{{fewest},{largest}}}" if largest != 0 else ""
            else:
                further = "" if most is None else most - 1
                more = f"({comma} {rest}){{{max(fewest - 1, 0)},{further}}}" if further != 0 else ""
                tail = f"{rest} {more}" if fewest else f"({rest} {more})?"
        expression = tail
        for number in range(n_prefix - 1, -1, -1):
            item = f"{comma if number else ''} {prefix[number]} {expression}"
            expression = self._grammar.rule(item) if number < least else f"({self._grammar.rule(item)})?"
        return expression

    def _constant(self, value: object) -> str:
        notation = self._notation
        match value:
            case None:
                return notation.null
            case bool():
                return notation.true if value else notation.false
            case str():
                return notation.text(value)
            case list():
                return f'"[" {f" {notation.comma} ".join(map(self._constant, value))} "]"'
            case dict():
                members = (f"{notation.key(str(key))} {self._constant(one)}" for key, one in value.items())
                return f'"{{" {f" {notation.comma} ".join(members)} "}}"'
            case _:
                return literal(json.dumps(value))


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    """Return the types that a schema names, or else those that its keywords speak of."""
    declared = schema.get("type")
    if isinstance(declared, str):
        return (declared,)
    if isinstance(declared, list) and declared:
        return [str(kind) for kind in declared]
    if "properties" in schema or "required" in schema:
        return ("object",)
    if "items" in schema or "prefixItems" in schema:
        return ("array",)
    return _TYPES

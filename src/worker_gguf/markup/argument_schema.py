"""The JSON Schema of a tool's arguments, as grammars of other languages than JSON need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.schema_keywords import DEFINITIONS, NAMED_SCHEMAS, Schema, has_no_meaning, parts
from worker_gguf.markup.tool import Tool
from worker_gguf.markup.tool_schema import ToolSchema, size

__all__ = ["OTHER_KEY", "Arguments", "arguments_of", "object_of", "sizes_of"]

OTHER_KEY = r"/\w([\w .\-]{0,62}\w)?/"
"""The name of an argument, or a key of an object, that the schema does not name."""
_UNDERSTOOD = frozenset(
    "$ref additionalProperties allOf anyOf const enum exclusiveMaximum exclusiveMinimum items maxItems maxLength "
    "maximum minItems minLength minimum multipleOf oneOf prefixItems properties required type".split()
)
_OF_SCHEMAS = frozenset({"additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems"}) | NAMED_SCHEMAS


class Arguments(NamedTuple):
    """The arguments of a tool. `others` is the schema of arguments that are not in `properties`, None if there may be
    none. `schema` is that of the tool, in which references are looked up."""

    properties: Mapping[str, object]
    required: frozenset[str]
    others: object
    schema: ToolSchema
    is_lenient: bool


def arguments_of(tool: Tool, *, are_values_json: bool) -> Arguments:
    """Return the arguments of a tool whose values are written as JSON, except texts, or in another language.

    Arguments that are not in `properties` are allowed only where there are no properties, or where the schema says so.
    Raises InvalidRequest if the tool is strict and its schema has a keyword that cannot be guaranteed there.
    """
    schema = ToolSchema(tool.parameters)
    arguments = object_of(schema.merged(schema.root), schema, is_lenient=not tool.strict)
    if tool.strict:
        shapes: list[Schema] = [
            {key: value for key, value in schema.root.items() if key not in DEFINITIONS and key != "properties"}
        ]
        shapes += [
            schema.merged(one)
            for one in arguments.properties.values()
            if not are_values_json or "string" in schema.types(one)
        ]
        for keyword in (keyword for shape in shapes for keyword in _unknown_keywords(shape)):
            raise InvalidRequest(
                f"The tool {tool.name} is strict, and its schema has {keyword!r}, which cannot be guaranteed in the "
                "format of this model's calls. Leave it out, or leave strict out.",
                param="tools",
            )
    return arguments


def object_of(schema: Schema, whole: ToolSchema, *, is_lenient: bool) -> Arguments:
    """Return the arguments that a schema of an object describes, which is a part of the whole after `merged`."""
    properties = schema.get("properties")
    named: dict[str, object] = {}
    if isinstance(properties, Mapping):
        named = {str(key): one for key, one in properties.items() if one is not False}
    for key, ones in _of_options(schema, whole).items():
        named.setdefault(key, ones[0] if len(ones) == 1 else {"anyOf": ones})
    listed = schema.get("required")
    required = [str(key) for key in listed] if isinstance(listed, list) else []
    others = schema.get("additionalProperties", not named)
    for key in required:
        named.setdefault(key, others or True)
    return Arguments(named, frozenset(required), None if others is False else others, whole, is_lenient)


def _of_options(schema: Schema, whole: ToolSchema) -> dict[str, list[object]]:
    """Return the properties that only some of the options of an object name."""
    found: dict[str, list[object]] = {}
    for keyword in ("anyOf", "oneOf"):
        for option in schema[keyword] if isinstance(schema.get(keyword), list) else ():
            properties = whole.merged(option).get("properties")
            for key, one in properties.items() if isinstance(properties, Mapping) else ():
                whole.count()
                found.setdefault(str(key), []).append(one)
    return found


def sizes_of(schema: Schema) -> tuple[int, int | None]:
    """Return the least and the largest number of items of an array, None for no limit."""
    return size(schema.get("minItems")) or 0, size(schema.get("maxItems"))


def _unknown_keywords(schema: object) -> Iterator[str]:
    """Yield the keywords of a schema, and of those in it, that are not understood."""
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        if keyword not in _UNDERSTOOD and not has_no_meaning(keyword):
            yield keyword
        if keyword in _OF_SCHEMAS:
            for one in parts(keyword, value):
                yield from _unknown_keywords(one)

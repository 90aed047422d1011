"""The JSON Schema of a tool's arguments, as grammars of other languages than JSON need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.offer import json_types
from worker_gguf.markup.tool import Tool

__all__ = [
    "Arguments",
    "Bounds",
    "arguments_of",
    "merged",
    "object_of",
    "resolved",
    "sizes_of",
    "text_bounds",
    "texts_of",
    "too_complex",
    "without_annotations",
]

# References that lead to references.
_MAX_DEPTH = 16
_MOST_STEPS = 400
# No answer has a text of more characters.
_LONGEST = 10_000_000
_ANNOTATIONS = frozenset(
    "$comment $schema contentEncoding contentMediaType default deprecated description examples readOnly title "
    "writeOnly x-guidance".split()
)
_HAVE_NO_MEANING = _ANNOTATIONS | {"$anchor", "$defs", "$id", "definitions", "nullable"}
_UNDERSTOOD = frozenset(
    "$ref additionalProperties allOf anyOf const enum exclusiveMaximum exclusiveMinimum items maxItems maxLength "
    "maximum minItems minLength minimum multipleOf oneOf prefixItems properties required type".split()
)
_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_NAMED_SCHEMAS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_OF_DATA = ("const", "enum")
_OF_ONE_SCHEMA = ("additionalProperties", "items")

Schema = Mapping[str, Any]


class Bounds(NamedTuple):
    """The least and the largest length of a text, None for no limit."""

    least: int
    most: int | None


class Arguments(NamedTuple):
    """The arguments of a tool. `others` is the schema of arguments that are not in `properties`, None if there may be
    none. `document` is the whole schema, in which references are looked up."""

    properties: Mapping[str, object]
    required: frozenset[str]
    others: object
    document: Schema
    is_lenient: bool


def arguments_of(tool: Tool, *, are_values_json: bool) -> Arguments:
    """Return the arguments of a tool whose values are written as JSON, except texts, or in another language.

    Arguments that are not in `properties` are allowed only where there are no properties, or where the schema says so.
    Raises InvalidRequest if the tool is strict and its schema has a keyword that cannot be guaranteed there.
    """
    document = tool.parameters
    arguments = object_of(merged(document, document), document, is_lenient=not tool.strict)
    if tool.strict:
        shapes: list[Schema] = [
            {key: value for key, value in document.items() if key not in ("$defs", "definitions", "properties")}
        ]
        shapes += [
            merged(one, document)
            for one in arguments.properties.values()
            if not are_values_json or "string" in json_types(one, document)
        ]
        for keyword in (keyword for shape in shapes for keyword in _unknown_keywords(shape)):
            raise InvalidRequest(
                f"The tool {tool.name} is strict, and its schema has {keyword!r}, which cannot be guaranteed in the "
                "format of this model's calls. Leave it out, or leave strict out.",
                param="tools",
            )
    return arguments


def object_of(schema: Schema, document: Schema, *, is_lenient: bool) -> Arguments:
    """Return the arguments that a schema of an object describes, after `merged`."""
    properties = schema.get("properties")
    named: dict[str, object] = {}
    if isinstance(properties, Mapping):
        named = {str(key): one for key, one in properties.items() if one is not False}
    listed = schema.get("required")
    required = [str(key) for key in listed] if isinstance(listed, list) else []
    others = schema.get("additionalProperties", not named)
    for key in required:
        named.setdefault(key, others or True)
    return Arguments(named, frozenset(required), None if others is False else others, document, is_lenient)


def resolved(schema: object, document: Schema) -> Schema:
    """Return the schema that a reference leads to, with the keywords beside the reference; {} for one of any value."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, Mapping) or not isinstance(reference := schema.get("$ref"), str):
            break
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = _target(reference, document)
        schema = {**target, **beside} if isinstance(target, Mapping) else beside
    return schema if isinstance(schema, Mapping) else {}


def merged(schema: object, document: Schema) -> Schema:
    """Return the schema without references and "allOf": the keywords of all of them, the later before the earlier.

    Raises InvalidRequest if there are too many of them, which few definitions that use each other several times make.
    """
    return _merged(schema, document, iter(range(_MOST_STEPS)))


def _merged(schema: object, document: Schema, steps: Iterator[int]) -> Schema:
    _count(steps)
    own = resolved(schema, document)
    together = own.get("allOf")
    if not isinstance(together, list):
        return own
    result: dict[str, Any] = {key: value for key, value in own.items() if key != "allOf"}
    for one in together:
        for key, value in _merged(one, document, steps).items():
            present = result.get(key)
            if isinstance(present, Mapping) and isinstance(value, Mapping):
                result[key] = {**present, **value}
            elif key == "required" and isinstance(present, list) and isinstance(value, list):
                result[key] = [*present, *value]
            else:
                result[key] = value
    return result


def texts_of(schema: object, document: Schema) -> tuple[str, ...] | None:
    """Return all texts that a schema allows if it lists them, else None. The schema must allow texts."""
    return _texts_of(schema, document, iter(range(_MOST_STEPS)))


def _texts_of(schema: object, document: Schema, steps: Iterator[int]) -> tuple[str, ...] | None:
    _count(steps)
    own = merged(schema, document)
    if "const" in own:
        return (own["const"],) if isinstance(own["const"], str) else ()
    if isinstance(own.get("enum"), list):
        return tuple(value for value in own["enum"] if isinstance(value, str))
    options = own.get("anyOf", own.get("oneOf"))
    if not isinstance(options, list):
        return None
    found: list[str] = []
    for option in options:
        if "string" in json_types(option, document):
            texts = _texts_of(option, document, steps)
            if texts is None:
                return None
            found += texts
    return tuple(found)


def _count(steps: Iterator[int]) -> None:
    if next(steps, None) is None:
        raise too_complex()


def too_complex() -> InvalidRequest:
    return InvalidRequest("The schema of a tool is too complex: its parts use each other too often.", param="tools")


def text_bounds(schema: object, document: Schema) -> Bounds | None:
    """Return the bounds of a text's length, the widest of those in "anyOf" and "oneOf"; None if there are none."""
    return _text_bounds(schema, document, iter(range(_MOST_STEPS)))


def _text_bounds(schema: object, document: Schema, steps: Iterator[int]) -> Bounds | None:
    _count(steps)
    own = merged(schema, document)
    least, most = _size(own.get("minLength")) or 0, _size(own.get("maxLength"))
    options = own.get("anyOf", own.get("oneOf"))
    if isinstance(options, list):
        found = [_text_bounds(one, document, steps) for one in options if "string" in json_types(one, document)]
        bounds = [one for one in found if one is not None]
        if bounds and len(bounds) == len(found):
            least = max(least, min(one.least for one in bounds))
            mosts = [one.most for one in bounds if one.most is not None]
            if len(mosts) == len(bounds):
                most = min(max(mosts), max(mosts) if most is None else most)
    if most is not None and most > _LONGEST:
        most = None
    return None if (least, most) == (0, None) else Bounds(least, most)


def sizes_of(schema: Schema) -> tuple[int, int | None]:
    """Return the least and the largest number of items of an array, None for no limit."""
    return _size(schema.get("minItems")) or 0, _size(schema.get("maxItems"))


def without_annotations(schema: Any) -> Any:
    """Return the schema without the keywords that say nothing of what is valid, which may be most of its text."""
    match schema:
        case Mapping():
            return {
                keyword: {name: without_annotations(one) for name, one in value.items()}
                if keyword in _OF_NAMED_SCHEMAS and isinstance(value, Mapping)
                else value
                if keyword in _OF_DATA
                else without_annotations(value)
                for keyword, value in schema.items()
                if keyword not in _ANNOTATIONS
            }
        case list():
            return [without_annotations(one) for one in schema]
        case _:
            return schema


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _target(reference: str, document: Schema) -> object:
    found: object = document if reference.startswith("#") else None
    for step in reference.split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _unknown_keywords(schema: object) -> Iterator[str]:
    """Yield the keywords of a schema, and of those in it, that are not understood."""
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        if keyword not in _UNDERSTOOD and keyword not in _HAVE_NO_MEANING:
            yield keyword
        if keyword in _OF_ONE_SCHEMA:
            yield from _unknown_keywords(value)
        elif keyword in _OF_SCHEMAS and isinstance(value, list):
            for one in value:
                yield from _unknown_keywords(one)
        elif keyword in _OF_NAMED_SCHEMAS and isinstance(value, Mapping):
            for one in value.values():
                yield from _unknown_keywords(one)

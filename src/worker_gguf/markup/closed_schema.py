"""Closes the objects of a tool's schema: a function has the arguments that it names and no others.

An object is closed only where one schema alone describes it. The members of "allOf", the options beside "properties",
and what a reference with such keywords beside it leads to each name only some of the properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from worker_gguf.markup.offer import Types
from worker_gguf.markup.schema_keywords import DATA, DEFINITIONS, NAMED_SCHEMAS, Schema, has_no_meaning, parts, target

__all__ = ["closed"]

# With one of these next to `properties`, other names are meant to be allowed, or are named elsewhere.
_OPEN = frozenset("additionalProperties const dependentRequired enum minProperties patternProperties".split())
# Of these, and of the keywords that describe an object or an array itself, there may be one.
_DESCRIBE = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
_DESCRIBE_ITSELF = frozenset(
    "additionalProperties dependentRequired items maxProperties minProperties patternProperties prefixItems properties "
    "propertyNames required".split()
)
# With one of these, all stays: what one part allows depends on what another does.
_ENTANGLED = frozenset(
    "$dynamicRef $recursiveRef additionalItems contains dependencies dependentSchemas else if then "
    "unevaluatedItems unevaluatedProperties".split()
)
_ONLY_REQUIRE = frozenset({"maxProperties", "required", "type"})
_OF_OBJECTS = frozenset({"additionalProperties", "maxProperties", "minProperties", "properties", "required", "type"})
_MOST_PASSES = 4
# Options of one "oneOf", and pairs of options of a whole document, that are compared; with more, they stay open.
_MOST_OPTIONS = 64
_MOST_PAIRS = 20_000
_MAX_REFERENCES = 16


def closed(schema: Schema) -> dict[str, Any]:
    """Return a schema whose objects have only the properties that it names, where it does not say anything else.

    What matches it matches the given schema, too. An object without named properties stays as it is.
    """
    closing = _Closing(schema)
    for _ in range(_MOST_PASSES):
        n_kept = len(closing.kept)
        closing.start()
        result: dict[str, Any] = closing.part(schema)
        # What must be kept may be found after it was closed.
        if len(closing.kept) == n_kept:
            return result
    return dict(schema)


class _Option(NamedTuple):
    """What tells an option of "oneOf" from another. `names` are those that it can have if it is closed, else None, and
    `tags` the texts that its properties may have where they are listed. `is_plain` tells that it is no more than that.
    """

    schema: Schema
    types: frozenset[str]
    is_plain: bool
    names: frozenset[str] | None
    required: frozenset[str]
    tags: dict[str, frozenset[str]]

    def has_none_of(self, other: _Option) -> bool:
        """Whether no value of this one matches the other, apart from values that closing changes nothing of."""
        if not self.types & other.types:
            return True
        if not (self.is_plain and other.is_plain):
            return False
        if self.names is not None and not other.required <= self.names:
            return True
        tagged = self.tags.keys() & other.tags.keys() & (self.required | other.required)
        return any(not self.tags[key] & other.tags[key] for key in tagged)


class _Closing:
    """Closes the parts of one document. `kept` are those that stay as they are, by their identities."""

    def __init__(self, document: Schema) -> None:
        self._document = document
        self._types = Types(document)
        self.kept: dict[int, object] = {}
        self._n_pairs_left = 0
        # Whether options are apart, by the identities of their schemas, which are kept so that no others have them.
        self._apart: dict[tuple[int, ...], tuple[list[_Option], bool]] = {}

    def start(self) -> None:
        """Begin to close the document anew, after more parts were kept."""
        self._n_pairs_left = _MOST_PAIRS
        self._apart = {}

    def part(self, schema: object) -> Any:
        """Return a part that alone describes a value, closed."""
        if not isinstance(schema, Mapping) or id(schema) in self.kept:
            return schema
        by_options = {key for key in _DESCRIBE & schema.keys() if not _only_requires(key, schema)}
        n_descriptions = len(by_options) + bool(_DESCRIBE_ITSELF & schema.keys())
        is_alone = n_descriptions <= 1 and not _ENTANGLED & schema.keys()
        result = {key: self._value(key, value, schema, is_alone=is_alone) for key, value in schema.items()}
        if is_alone and (names := _names_if_closed(schema)) is not None:
            others: dict[str, Any] = {key: {} for key in sorted(names) if key not in result["properties"]}
            result |= {"properties": {**result["properties"], **others}, "additionalProperties": False}
        return result

    def _value(self, keyword: str, value: object, schema: Schema, *, is_alone: bool) -> Any:
        if keyword in DATA or keyword == "$ref":
            if keyword == "$ref" and isinstance(value, str) and not is_alone:
                self._keep(target(value, self._document))
            return value
        if keyword in DEFINITIONS or (is_alone and self._may_close(keyword, value, schema)):
            if keyword in NAMED_SCHEMAS and isinstance(value, Mapping):
                return {name: self.part(one) for name, one in value.items()}
            return [self.part(one) for one in value] if isinstance(value, list) else self.part(value)
        for one in parts(keyword, value):
            self._keep(one)
        return value

    def _may_close(self, keyword: str, value: object, schema: Schema) -> bool:
        """Whether the parts under a keyword of a schema that alone describes a value do so, too."""
        match keyword:
            case "properties" | "additionalProperties" | "patternProperties":
                return "patternProperties" not in schema
            case "items" | "prefixItems" | "anyOf":
                return True
            case "allOf":
                return isinstance(value, list) and len(value) == 1
            case "oneOf":
                return isinstance(value, list) and len(value) <= _MOST_OPTIONS and self._are_apart(value)
            case _:
                return False

    def _keep(self, schema: object) -> None:
        """Keep a part as it is, with all parts in it and those that they refer to."""
        waiting = [schema]
        while waiting:
            one = waiting.pop()
            if isinstance(one, list):
                waiting += one
            elif isinstance(one, Mapping) and id(one) not in self.kept:
                self.kept[id(one)] = one
                for keyword, value in one.items():
                    if keyword == "$ref" and isinstance(value, str):
                        waiting.append(target(value, self._document))
                    waiting += parts(keyword, value)

    def _are_apart(self, options: list[object]) -> bool:
        """Whether no value comes to match only one of the options because another one was closed."""
        found = [self._option(one) for one in options]
        key = tuple(id(one.schema) for one in found)
        if key not in self._apart:
            self._n_pairs_left -= len(found) * (len(found) - 1) // 2
            are_apart = self._n_pairs_left >= 0 and all(
                one.has_none_of(other) and other.has_none_of(one) for one, other in combinations(found, 2)
            )
            self._apart[key] = (found, are_apart)
        return self._apart[key][1]

    def _option(self, option: object) -> _Option:
        types = self._types.of(option)
        for _ in range(_MAX_REFERENCES):
            if not isinstance(option, Mapping) or any(not has_no_meaning(key) for key in option if key != "$ref"):
                break
            if not isinstance(reference := option.get("$ref"), str):
                break
            option = target(reference, self._document)
        schema = option if isinstance(option, Mapping) else {}
        names: frozenset[str] | None = None
        if id(schema) not in self.kept:
            names = _names_if_closed(schema)
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            names = frozenset(_properties(schema))
        is_plain = all(key in _OF_OBJECTS or has_no_meaning(key) for key in schema)
        tags = {key: found for key, one in _properties(schema).items() if (found := _tags(one))}
        return _Option(schema, types & {"array", "object"}, is_plain, names, _required(schema), tags)


def _names_if_closed(schema: Schema) -> frozenset[str] | None:
    """Return the names that an object has after it was closed, None if it is not."""
    names = frozenset(_properties(schema))
    if not names or _OPEN & schema.keys():
        return None
    names |= _required(schema)
    options = (one for key in _DESCRIBE & schema.keys() for one in parts(key, schema[key]))
    return names if all(_required(one) <= names for one in options if isinstance(one, Mapping)) else None


def _only_requires(keyword: str, schema: Schema) -> bool:
    """Whether the options under a keyword say only which properties there must be."""
    options = schema[keyword]
    return isinstance(options, list) and all(
        isinstance(one, Mapping) and all(key in _ONLY_REQUIRE or has_no_meaning(key) for key in one) for one in options
    )


def _properties(schema: Schema) -> Schema:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _required(schema: Schema) -> frozenset[str]:
    required = schema.get("required")
    return frozenset(key for key in required if isinstance(key, str)) if isinstance(required, list) else frozenset()


def _tags(schema: object) -> frozenset[str]:
    """Return the texts that a property may have if the schema lists them, and else nothing."""
    if not isinstance(schema, Mapping):
        return frozenset()
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    is_listed = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return frozenset(values) if is_listed and isinstance(values, list) else frozenset()

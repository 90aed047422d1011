"""Finds what of a JSON Schema cannot be guaranteed, and prepares the rest for llguidance, which is not needed here.

Keywords mean what they mean in draft 2020-12. What llguidance would read in another way is rewritten or refused, and so
is what it would take too long to compile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from msgspec import Struct

from worker_gguf.protocol.schemas.cost import check_cost
from worker_gguf.protocol.schemas.disjoint import Prover
from worker_gguf.protocol.schemas.fault import Fault, Refused, joined
from worker_gguf.protocol.schemas.keywords import CHECKS, UNSUPPORTED, is_neutral
from worker_gguf.protocol.schemas.patterns import PatternFault, rewritten
from worker_gguf.protocol.schemas.references import escaped, resolved

__all__ = ["MAX_SCHEMA_BYTES", "Examined", "Fault", "Refused", "examine"]

MAX_SCHEMA_BYTES = 256 * 1024
# Those that the root leads to. 8000 take 0.2 s to examine and 0.4 s to compile, whatever they have.
MAX_SCHEMAS = 8000
# llguidance's reader of JSON stops at 128. Much more than any published schema has.
MAX_DEPTH = 64
# The grammar of an object grows with the square of these numbers.
MAX_PROPERTIES = 500
MAX_PATTERNS = 20

Schema = dict[str, Any]

_ANNOTATIONS = ("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "x-guidance")
_MAPS = ("properties", "patternProperties")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_SINGLE = ("items", "additionalItems", "additionalProperties")


class Examined(Struct, frozen=True):
    """A schema as llguidance can hold answers to it, without the keywords in `faults`.

    `cost_ms` is about how long it takes to compile.
    """

    schema: Schema
    faults: tuple[Fault, ...]
    cost_ms: float = 0.0


def examine(schema: object) -> Examined:
    """Examine a schema and all that it refers to.

    Raises Refused if it is no schema, or if it would take too long to compile, even without the keywords in faults. The
    message continues a sentence about the schema.
    """
    if schema is False:
        raise Refused("is false, which no answer matches")
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise Refused("must be an object")
    _check_depth(schema)
    root: Schema = json.loads(_text(schema))  # a copy
    examination = _Examination(root)
    faults = list(examination.faults())
    try:
        cost_ms = check_cost(root)
    except RecursionError:
        raise Refused("is nested too deeply, with all its references") from None
    faults += examination.faults_of_options()
    return Examined(root, tuple(faults), cost_ms)


def _text(schema: Schema) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise Refused("has an unpaired surrogate, which is not a character") from None
    except ValueError:
        raise Refused("has a number that is not finite") from None
    if n_bytes > MAX_SCHEMA_BYTES:
        raise Refused(f"has more than {MAX_SCHEMA_BYTES // 1024} KiB")
    return text


def _check_depth(schema: Schema) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        items = chain.from_iterable(part.values() if isinstance(part, dict) else part for part in level)
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise Refused(f"is nested more than {MAX_DEPTH} deep")


class _Examination:
    """Visits each schema once, rewrites it in place, and finds its faults."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._seen: set[int] = set()
        self._one_ofs: list[tuple[Schema, str, list[object]]] = []
        self._todo: list[tuple[Schema, str, bool]] = [(root, "", False)]

    def faults(self) -> Iterator[Fault]:
        while self._todo:
            schema, place, has_base = self._todo.pop()
            if id(schema) in self._seen:
                continue
            self._seen.add(id(schema))
            if len(self._seen) > MAX_SCHEMAS:
                raise Refused(f"has more than {MAX_SCHEMAS} schemas in it")
            has_base = has_base or (schema is not self._root and isinstance(schema.get("$id"), str))
            for keyword, why in self._faults_of(schema, place, has_base):
                yield Fault(keyword, place, why)
                schema.pop(keyword, None)

        for schema, _, options in self._one_ofs:
            del schema["oneOf"]
            if "anyOf" in schema:
                schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": options}]
            else:
                schema["anyOf"] = options

    def faults_of_options(self) -> Iterator[Fault]:
        """Compare the options of each oneOf. It became an anyOf, which means the same if no two match together."""
        prover = Prover(self._root)
        for _, place, options in self._one_ofs:
            if not prover.are_disjoint(options):
                yield Fault("oneOf", place, "has options that one value could match together; use anyOf")

    def _faults_of(self, schema: Schema, place: str, has_base: bool) -> Iterator[tuple[str, str]]:
        """Yield the keywords that must be left out, each with the reason, and note the schemas inside."""
        yield from _nullable(schema)
        unsupported = [(keyword, is_neutral(keyword, schema)) for keyword in _of(UNSUPPORTED, schema)]
        for keyword, has_no_effect in unsupported:
            if has_no_effect:
                del schema[keyword]
            else:
                yield keyword, UNSUPPORTED[keyword]
        for keyword in _of(_ANNOTATIONS, schema):
            del schema[keyword]
        for keyword in _of(CHECKS, schema):
            try:
                CHECKS[keyword](schema)
            except Refused as refused:
                yield keyword, str(refused)
        yield from self._inside(schema, place, has_base)
        if "$ref" in schema:
            yield from self._reference(schema, has_base)
        if "oneOf" in schema:
            self._one_ofs.append((schema, place, schema["oneOf"]))

    def _inside(self, schema: Schema, place: str, has_base: bool) -> Iterator[tuple[str, str]]:
        if isinstance(schema.get("items"), list):
            if "prefixItems" in schema:
                yield "items", "must be a schema where there are prefixItems"
        else:
            # The word of older drafts has no effect without a list of items.
            schema.pop("additionalItems", None)
        for keyword in _of((*_MAPS, *_LISTS, *_SINGLE), schema):
            try:
                if keyword == "patternProperties":
                    schema[keyword] = _with_patterns(schema[keyword])
                parts = dict(_schemas(keyword, schema[keyword]))
            except Refused as refused:
                yield keyword, str(refused)
            else:
                for path, part in parts.items():
                    if isinstance(part, dict):
                        self._todo.append((part, joined(place, path), has_base))

    def _reference(self, schema: Schema, has_base: bool) -> Iterator[tuple[str, str]]:
        try:
            if has_base:
                raise Refused("is inside a schema with an $id of its own, which is not supported")
            target = resolved(self._root, schema["$ref"])
        except Refused as refused:
            yield "$ref", str(refused)
        else:
            if isinstance(target, dict):
                self._todo.append((target, schema["$ref"].removeprefix("#"), False))


def _of(keywords: Iterable[str], schema: Schema) -> list[str]:
    """Return the keywords that a schema has, in their own order. Most schemas have few."""
    return [] if schema.keys().isdisjoint(keywords) else [keyword for keyword in keywords if keyword in schema]


def _nullable(schema: Schema) -> Iterator[tuple[str, str]]:
    """Read OpenAPI's `nullable`, which adds null to the types."""
    if schema.get("nullable") is True:
        types = schema.get("type")
        if isinstance(types, str | list):
            listed = [types] if isinstance(types, str) else types
            schema["type"] = listed if "null" in listed else [*listed, "null"]
        else:
            yield "nullable", 'needs a type next to it; use anyOf with {"type": "null"}'
    schema.pop("nullable", None)


def _with_patterns(value: object) -> object:
    """Rewrite the names of patternProperties."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_PATTERNS:
        raise Refused(f"has more than {MAX_PATTERNS} patterns")
    try:
        parts = {rewritten(pattern, exact=True): part for pattern, part in value.items()}
    except PatternFault as fault:
        raise Refused(f"has a pattern that {fault}") from None
    if len(parts) < len(value):
        raise Refused("has two patterns that are the same")  # as in (a) and (?:a); both schemas would have to match
    return parts


def _schemas(keyword: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the schemas in the value of a keyword, each with its place below. Raises Refused if it has another form."""
    parts: list[tuple[str, object]]
    if keyword in _MAPS:
        if not isinstance(value, dict):
            raise Refused("must be an object")
        if len(value) > MAX_PROPERTIES:
            raise Refused(f"has more than {MAX_PROPERTIES} names")
        parts = [(f"{keyword}/{escaped(name)}", part) for name, part in value.items()]
    elif keyword in _LISTS or (keyword == "items" and isinstance(value, list)):
        if not isinstance(value, list) or not value:
            raise Refused("must be a list that is not empty")
        parts = [(f"{keyword}/{place}", part) for place, part in enumerate(value)]
    else:
        parts = [(keyword, value)]
    for place, part in parts:
        if not isinstance(part, dict | bool):
            raise Refused("has a value that is no schema")
        yield place, part

"""The tools of a request as a parser needs them: which names can be called, and what types their parameters have."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from worker_gguf.markup.schema_keywords import target
from worker_gguf.markup.tool import Tool

__all__ = ["Offer", "Parameters", "Types", "as_json", "literal_as_json", "python_as_json"]

_ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_PYTHON_WORDS = {"true": "True", "false": "False", "null": "None"}
_JSON_WORD_OR_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b""")
# References that lead to references, and options of options.
_MAX_DEPTH = 64


class Offer:
    """The tools that may be called."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def __bool__(self) -> bool:
        return bool(self._tools)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def name(self, written: str) -> str | None:
        """Return the name of the tool that a model means, without a prefix such as "functions."; None if unknown."""
        name = html.unescape(written.strip())
        while name and name not in self._tools:
            name = name.partition(".")[2]
        return name or None

    def has_beginning(self, written: str) -> bool:
        """Whether a name that can be called begins so."""
        name = written.strip().rpartition(".")[2]
        return any(tool.rpartition(".")[2].startswith(name) for tool in self._tools)

    def parameters(self, name: str) -> Parameters:
        return Parameters(self._tools[name].parameters)


class Parameters:
    """The parameters of one tool."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._types = Types(schema)
        properties = schema.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}

    def key(self, written: str) -> str:
        """Return the parameter that a model means: a key with characters of XML may be written escaped."""
        key = written.strip()
        return key if key in self._properties else html.unescape(key)

    def schema(self, key: str) -> object:
        """Return the schema of a parameter; True if there is none."""
        return self._properties.get(key, self._schema.get("additionalProperties", True))

    def types(self, key: str) -> frozenset[str]:
        """Return the JSON types that a parameter may have; all of them if the schema does not tell."""
        return self.types_of(self.schema(key))

    def types_of(self, schema: object) -> frozenset[str]:
        """Return the JSON types that a schema within this tool's schema allows."""
        return self._types.of(schema)

    def __iter__(self) -> Iterator[str]:
        return iter(self._properties)


class Types:
    """Finds the JSON types of the schemas within one document, of each only once. What it does not see allows all.

    A schema must not change after it was asked for.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        # By the identity of the schema, which is kept so that no other can have it.
        self._known: dict[int, tuple[object, frozenset[str]]] = {}

    def of(self, schema: object, depth: int = 0) -> frozenset[str]:
        """Return the JSON types that a schema allows, by the keywords that name types or values."""
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return _ALL_TYPES
        known = self._known.get(id(schema))
        if known is None:
            # A schema that leads to itself says nothing more of its types.
            self._known[id(schema)] = (schema, _ALL_TYPES)
            known = self._known[id(schema)] = (schema, self._of(schema, depth))
        return known[1]

    def _of(self, schema: Mapping[str, Any], depth: int) -> frozenset[str]:
        types = _ALL_TYPES
        declared = schema.get("type")
        if isinstance(declared, str):
            types &= {declared}
        elif isinstance(declared, list):
            types &= {name for name in declared if isinstance(name, str)}
        if "const" in schema:
            types &= _types_of([schema["const"]])
        if isinstance(schema.get("enum"), list):
            types &= _types_of(schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list):
                types &= frozenset().union(*(self.of(one, depth + 1) for one in schema[keyword]))
        for one in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
            types &= self.of(one, depth + 1)
        if isinstance(schema.get("$ref"), str):
            types &= self.of(target(schema["$ref"], self._root), depth + 1)
        return types or _ALL_TYPES


def _types_of(values: Sequence[object]) -> frozenset[str]:
    found: set[str] = set()
    for value in values:
        found.update(_type_of(value))
    return frozenset(found)


def _type_of(value: object) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int() | float():
            return ("number", "integer")
        case str():
            return ("string",)
        case list():
            return ("array",)
        case _:
            return ("object",)


def as_json(text: str, types: frozenset[str]) -> str:
    """Return a value that a model wrote without quotes as JSON, of one of these types where that is possible.

    The text of a JSON value, or of a literal of Python, stands for that value if its type is allowed. Any other text is
    a string.
    """
    literal = literal_as_json(text)
    if literal is not None and "string" not in types:
        return literal
    if literal is not None and types & set(_type_of(json.loads(literal))) - {"string"}:
        return literal
    return json.dumps(text, ensure_ascii=False)


def literal_as_json(text: str) -> str | None:
    """Return the JSON text of a JSON value, or of what Python writes for a list, a dict or a constant, else None."""
    stripped = text.strip()
    try:
        json.loads(stripped, parse_constant=_refuse)
        return stripped
    except (ValueError, RecursionError):
        return python_as_json(stripped) if stripped[:1] in tuple("[{TFN") else None


def python_as_json(text: str) -> str | None:
    """Return the JSON text of a literal of Python, in which the constants may be those of JSON; None for other text."""
    try:
        python = _JSON_WORD_OR_STRING.sub(lambda match: _PYTHON_WORDS.get(match.group(), match.group()), text.strip())
        return json.dumps(ast.literal_eval(python), ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)

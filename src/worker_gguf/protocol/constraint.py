"""Reads what the answer must match, under the names that OpenAI, llama-server, vLLM, Ollama and others have for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.bodies import Common
from worker_gguf.protocol.grammar_text import check_grammar, checked_regex, is_gbnf, with_schemas
from worker_gguf.protocol.schemas.fault import Refused
from worker_gguf.protocol.validation import invalid, required
from worker_gguf.protocol.wellformed import is_encodable, read_json

__all__ = ["MAX_CHOICES", "read_constraint"]

MAX_CHOICES = 5000
MAX_CHOICE_CHARACTERS = 64 * 1024
_MOST_FAULTS = 5

_ANY_OBJECT = {"type": "object"}
# The keys of a value that have no effect here, besides those that are named as ignored.
_WITHOUT_EFFECT = frozenset({"description", "name", "strict", "type"})
_TAGS = "structural_tag is not supported. Use tools for calls, or lark for a grammar of your own."

Found = Iterator[tuple[str, Constraint | None]]


def read_constraint(body: Common) -> tuple[Constraint | None, tuple[str, ...]]:
    """Return what the answer must match, and the names of fields without effect. Raises InvalidRequest."""
    ignored: list[str] = []
    found = [(name, constraint) for name, constraint in _all(body, ignored) if constraint is not None]
    if not found:
        return None, tuple(ignored)
    name, constraint = found[0]
    for other_name, other in found[1:]:
        if other != constraint:  # some clients say the same for older and for newer servers
            message = f"'{name}' and '{other_name}' both say what the answer must match. Send one of them."
            raise InvalidRequest(message, param=other_name)
    if body.ignore_eos:
        raise invalid("ignore_eos", f"excludes {name}, which says where the answer ends")
    return replace(constraint, param=name), tuple(ignored)


def _all(body: Common, ignored: list[str]) -> Found:
    if body.response_format is not None:
        yield _response_format(body.response_format, ignored)
    yield "json_schema", None if body.json_schema is None else _schema("json_schema", body.json_schema)
    yield "guided_json", _schema("guided_json", body.guided_json) if body.guided_json else None
    yield "format", _format(body.format) if body.format else None
    for name in ("grammar", "grammar_string", "guided_grammar"):
        text = getattr(body, name)
        yield name, _grammar(name, text) if text else None
    yield "lark", _lark("lark", body.lark) if body.lark else None
    for name in ("regex", "guided_regex"):
        text = getattr(body, name)
        yield name, _regex(name, text) if text else None
    for name in ("choice", "guided_choice"):
        choices = getattr(body, name)
        yield name, _choice(name, choices) if choices else None
    if body.structured_outputs:
        yield from _structured_outputs(body.structured_outputs, ignored)


def _response_format(value: Mapping[str, Any], ignored: list[str]) -> tuple[str, Constraint | None]:
    name = "response_format"
    match value.get("type"):
        case "text":
            _note_unused(name, value, {"type"}, ignored)
            return name, None
        case "json_object":
            _note_unused(name, value, {"schema"}, ignored)
            schema = value.get("schema")
            return name, _schema(f"{name}.schema", _ANY_OBJECT if schema is None else schema)
        case "json_schema":
            _note_unused(name, value, {"schema", "json_schema"}, ignored)
            return name, _json_schema_format(name, value, ignored)
        case "json":
            _note_unused(name, value, {"value"}, ignored)
            return name, _schema(f"{name}.value", _given(value, name, "value"))
        case "grammar":
            _note_unused(name, value, {"grammar"}, ignored)
            return name, _grammar(f"{name}.grammar", _given(value, name, "grammar"))
        case "regex":
            key = next((key for key in ("regex", "pattern", "value") if key in value), "regex")
            _note_unused(name, value, {key}, ignored)
            return name, _regex(f"{name}.{key}", _given(value, name, key))
        case "structural_tag":
            raise UnsupportedParameter(f"The type {_TAGS}", param=f"{name}.type")
        case None:
            raise required(f"{name}.type")
        case _:
            raise invalid(f"{name}.type", "must be text, json_object, json_schema, json, grammar or regex")


def _json_schema_format(name: str, value: Mapping[str, Any], ignored: list[str]) -> Constraint:
    """Read OpenAI's form, or llama-server's, which has the schema in the same object."""
    inner = value.get("json_schema")
    if inner is None and value.get("schema") is not None:
        return _schema(f"{name}.schema", value["schema"])
    if inner is None:
        raise required(f"{name}.json_schema")
    if not isinstance(inner, dict):
        raise invalid(f"{name}.json_schema", "must be an object")
    _note_unused(f"{name}.json_schema", inner, {"schema"}, ignored)
    return _schema(f"{name}.json_schema.schema", _given(inner, f"{name}.json_schema", "schema"))


def _structured_outputs(value: Mapping[str, Any], ignored: list[str]) -> Found:
    """Read vLLM's form, whose members have the names of its guided_* parameters."""
    readers: Mapping[str, Callable[[str, Any], Constraint]] = {
        "json": _schema,
        "regex": _regex,
        "choice": _choice,
        "grammar": _grammar,
        "lark": _lark,
    }
    name = "structured_outputs"
    if value.get("structural_tag"):
        raise UnsupportedParameter(f"The member {_TAGS}", param=f"{name}.structural_tag")
    _note_unused(name, value, {*readers, "json_object", "structural_tag"}, ignored)
    for key, read in readers.items():
        if value.get(key):
            yield f"{name}.{key}", read(f"{name}.{key}", value[key])
    if value.get("json_object"):
        yield f"{name}.json_object", _schema(name, _ANY_OBJECT)


def _given(value: Mapping[str, Any], name: str, key: str) -> Any:
    if value.get(key) is None:
        raise required(f"{name}.{key}")
    return value[key]


def _note_unused(name: str, value: Mapping[str, Any], used: set[str], ignored: list[str]) -> None:
    unused = value.keys() - used - _WITHOUT_EFFECT
    ignored += sorted(f"{name}.{key}" for key in unused if value[key] is not None)


def _format(value: str | Mapping[str, Any]) -> Constraint:
    """Read Ollama's `format`: "json", or a schema."""
    if isinstance(value, str) and value != "json":
        raise invalid("format", "must be json or a JSON Schema")
    return _schema("format", _ANY_OBJECT if value == "json" else value)


def _schema(param: str, value: object) -> Constraint:
    """Read a schema, or the JSON text of one."""
    if isinstance(value, str):
        value = _parsed(param, value)
    return Constraint("json_schema", json.dumps(_prepared(param, value), ensure_ascii=False))


def _parsed(param: str, text: str) -> object:
    try:
        return read_json(text.encode(), f"value of '{param}'")
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param=param) from None


def _prepared(param: str, value: object) -> dict[str, Any]:
    try:
        # Imported here, because a start should not wait for it.
        from worker_gguf.protocol.schemas.json_schema import examine

        examined = examine(value)
    except Refused as refused:
        raise invalid(param, f"the JSON Schema {refused}") from None
    if examined.faults:
        shown = ". ".join(map(str, examined.faults[:_MOST_FAULTS]))
        more = len(examined.faults) - _MOST_FAULTS
        rest = f". And {more} more" if more > 0 else ""
        message = f"The JSON Schema in '{param}' asks for what cannot be guaranteed: {shown}{rest}."
        raise UnsupportedParameter(message, param=param)
    return examined.schema


def _grammar(param: str, value: object) -> Constraint:
    """Read a grammar in GBNF or in Lark, which are told apart by how they write a rule."""
    text = _text(param, value)
    _accepted(param, lambda: check_grammar(text))  # its length first
    return _gbnf(param, text) if is_gbnf(text) else _lark(param, text)


def _gbnf(param: str, text: str) -> Constraint:
    _accepted(param, lambda: check_grammar(text))
    return Constraint("gbnf", text)


def _lark(param: str, value: object) -> Constraint:
    text = _text(param, value)
    if text.lstrip().startswith("{"):
        raise invalid(param, "must be a grammar in Lark, not JSON")
    _accepted(param, lambda: check_grammar(text))
    return Constraint("lark", _accepted(param, lambda: with_schemas(text, lambda schema: _prepared(param, schema))))


def _regex(param: str, value: object) -> Constraint:
    text = _text(param, value)
    return Constraint("regex", _accepted(param, lambda: checked_regex(text), "regular expression"))


def _choice(param: str, value: object) -> Constraint:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise invalid(param, "must be a list of texts that are not empty")
    if len(value) > MAX_CHOICES or sum(map(len, value)) > MAX_CHOICE_CHARACTERS:
        raise invalid(param, f"must have at most {MAX_CHOICES} texts with {MAX_CHOICE_CHARACTERS} characters together")
    return Constraint("choice", json.dumps(list(dict.fromkeys(value)), ensure_ascii=False))


def _text(param: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(param, "must be a text that is not empty")
    if not is_encodable(value) or "\0" in value:
        raise invalid(param, "holds what is not a character")
    return value


def _accepted(param: str, read: Callable[[], Any], what: str = "grammar") -> Any:
    try:
        return read()
    except Refused as refused:
        raise invalid(param, f"the {what} {refused}") from None

"""The tables of docs/api.md, generated from protocol/parameters.py and the body models. The prose is by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import fields
from pydantic import BaseModel

from tools.docs.markdown import table
from worker_gguf.engine.request import SamplingParams
from worker_gguf.protocol.bodies import ChatBody, Common, CompletionBody
from worker_gguf.protocol.calls import ChatCall, CompletionCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.parameters import ALIASES, CHAT_REFUSED, COMPLETION_REFUSED, IGNORED, INSTEAD, REFUSED
from worker_gguf.settings.fields import Limits, Sampling
from worker_gguf.settings.text import default_text

__all__ = ["api_page", "bounds_text", "tables", "type_text", "with_tables"]

Schema = dict[str, Any]

_SAMPLING = {field.name for field in fields(SamplingParams)}
# Where the setting of a default has another name.
_SETTINGS = {"timeout": "request_timeout_s"}
_PLURALS = {"text": "texts", "integer": "integers", "object": "objects", "message": "messages"}


def api_page(written: str) -> str:
    """Return docs/api.md with its tables."""
    return with_tables(written, tables())


def with_tables(written: str, tables: Mapping[str, str]) -> str:
    """Put each table between its two marks, `<!-- table: name -->` and `<!-- end -->`, of a written page."""
    for name, text in tables.items():
        mark = f"<!-- table: {name} -->\n"
        before, found, rest = written.partition(mark)
        _, end, after = rest.partition("<!-- end -->\n")
        if not (found and end):
            raise ValueError(f"The page has no place for its table {name!r}: {mark.strip()} ... <!-- end -->")
        written = f"{before}{mark}\n{text}\n{end}{after}"
    return written


def tables() -> dict[str, str]:
    """Every table by its name on the page."""
    own = Common.model_fields.keys()
    return {
        "both": _honoured(CompletionBody, [name for name in own if name not in _SAMPLING]),
        "sampling": _honoured(CompletionBody, [name for name in own if name in _SAMPLING]),
        "chat": _honoured(ChatBody, [name for name in ChatBody.model_fields if name not in own]),
        "completions": _honoured(CompletionBody, [name for name in CompletionBody.model_fields if name not in own]),
        "refused": table(("Name", "Passes as", "Instead"), _refused()),
        "ignored": table(("Sent by or for", "Names"), _ignored()),
    }


def _honoured(body: type[BaseModel], names: Iterable[str]) -> str:
    schema = body.model_json_schema()
    head = ("Name", "Also as", "Type", "Bounds", "Default", "What it does")
    return table(head, (_row(body, name, schema["properties"][name]) for name in names))


def _row(body: type[BaseModel], name: str, schema: Schema) -> tuple[str, ...]:
    also = sorted(alias for alias, target in ALIASES.items() if target == name)
    return (
        f"`{name}`",
        _codes(also),
        type_text(schema),
        bounds_text(schema),
        _default(body, name),
        body.model_fields[name].description or "",
    )


def _default(body: type[BaseModel], name: str) -> str:
    """Return the value for a request that does not name the field: a setting, or what a bare request parses to."""
    if body.model_fields[name].is_required():
        return "required"
    setting = _SETTINGS.get(name, name)
    for group in (Sampling, Limits):
        if setting in group.model_fields:
            text = default_text(group.model_fields[setting])
            return f"`{setting.upper()}`" + (f", `{text}`" if text else "")
    call = _bare_call(body)
    value = getattr(call, name, getattr(call.options, name, None))
    return f"`{json.dumps(value)}`" if isinstance(value, bool | int) else ""


def _bare_call(body: type[BaseModel]) -> ChatCall | CompletionCall:
    if body is ChatBody:
        return parse_chat({"messages": [{"role": "user", "content": "x"}]}, Defaults())
    call = parse_completion({"prompt": "x"}, Defaults())
    assert isinstance(call, CompletionCall)
    return call


# --- a JSON schema in words ------------------------------------------------------------------------------------------


def type_text(schema: Schema) -> str:
    """Return the type in words, such as `text or list of texts`."""
    if members := _members(schema):
        return " or ".join(dict.fromkeys(type_text(member) for member in members))
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return "message" if name == "Message" else "object"
    kind: str = schema["type"]
    if kind == "array":
        return f"list of {_plural(type_text(schema['items']))}" if schema["items"] else "list"
    return {"string": "text", "boolean": "true or false"}.get(kind, kind)


def bounds_text(schema: Schema) -> str:
    """Return the bounds of a value, such as `>= 0, <= 1` or `at most 16 items`; empty when there are none."""
    return "; ".join(dict.fromkeys(_bounds(schema)))


def _bounds(schema: Schema) -> Iterator[str]:
    signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    if numbers := ", ".join(f"{sign} {_number(schema[key])}" for key, sign in signs if key in schema):
        yield numbers
    for part in (*_members(schema), *([schema["items"]] if schema.get("items") else ())):
        yield from _bounds(part)
    if "maxLength" in schema:
        yield f"{'1 to' if 'minLength' in schema else 'at most'} {schema['maxLength']} characters"
    if "maxItems" in schema:
        yield f"at most {schema['maxItems']} items"
    if "minItems" in schema:
        yield "not empty"


def _members(schema: Schema) -> list[Schema]:
    members = schema.get("anyOf") or schema.get("oneOf") or []
    # Without null, and without the empty values that stand for it, which have no type.
    return [member for member in members if member.get("type") != "null" and member.keys() != {"enum"}]


def _plural(kind: str) -> str:
    return kind.replace("list ", "lists ", 1) if kind.startswith("list ") else _PLURALS[kind]


def _number(bound: float) -> str:
    """Large bounds are powers of two, or one below."""
    for offset, suffix in (0, ""), (1, "-1"):
        power = abs(int(bound)) + offset
        if power >= 2**16 and power.bit_count() == 1:
            return f"{'-' if bound < 0 else ''}2^{power.bit_length() - 1}{suffix}"
    return f"{bound}"


# --- parameters that are not honoured --------------------------------------------------------------------------------


def _refused() -> Iterator[tuple[str, ...]]:
    tables = {**CHAT_REFUSED, **COMPLETION_REFUSED}
    for name in sorted(tables):
        neutral = ["null", *(json.dumps(value) for value in tables[name])]
        if name == "best_of":
            neutral.append("the value of n")
        where = "" if name in REFUSED else " (chat)" if name in CHAT_REFUSED else " (completions)"
        yield f"`{name}`{where}", _codes(neutral), INSTEAD.get(name, "")


def _ignored() -> Iterator[tuple[str, ...]]:
    """Return one row for each client. Names with the same reason share a row."""
    clients: dict[str, dict[str, list[str]]] = {}
    for name in sorted(IGNORED):
        client, _, reason = IGNORED[name].partition(": ")
        clients.setdefault(client, {}).setdefault(reason, []).append(name)
    for client in sorted(clients, key=str.lower):
        reasons = sorted(clients[client].items())
        yield client, "; ".join(_codes(names) + (f" ({reason})" if reason else "") for reason, names in reasons)


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)

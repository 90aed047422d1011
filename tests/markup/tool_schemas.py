"""Random JSON Schemas of tools, each with arguments that match it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["NODE", "tools_with_arguments"]

NAMES = ("look_up", "look", "do-it", "f")
_KEYS = ("a", "b", "name", "long_key", "k1", "zeta")
# A linked list, which refers to itself.
NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["v"],
    "additionalProperties": False,
}
_LETTERS = st.characters(exclude_categories=("C", "Z"), exclude_characters='<>"|\\')
_TEXTS = st.text(st.one_of(st.sampled_from("ab .,:{}[]()'\n"), _LETTERS), max_size=8).map(lambda text: f"t{text}e")
Valued = tuple[dict[str, Any], Any]


@st.composite
def _scalar(draw: st.DrawFn) -> Valued:
    kind = draw(st.sampled_from(["text", "bounded", "enum", "integer", "number", "boolean", "null", "const", "either"]))
    text = draw(_TEXTS)
    number = draw(st.integers(-1000, 1000))
    match kind:
        case "text":
            return {"type": "string"}, text
        case "bounded":
            return {"type": "string", "minLength": 1, "maxLength": len(text) + 1}, text
        case "enum":
            options = ["a", "ab", text, 7, None]
            return {"enum": options}, draw(st.sampled_from(options))
        case "integer":
            return {"type": "integer", "minimum": -1000}, number
        case "number":
            return {"type": "number", "maximum": 1000}, number / 4
        case "boolean":
            return {"type": "boolean"}, draw(st.booleans())
        case "null":
            return {"type": "null"}, None
        case "const":
            return {"const": text}, text
        case _:
            return {"type": ["integer", "string"]}, draw(st.sampled_from([number, text]))


@st.composite
def _value(draw: st.DrawFn, depth: int = 0) -> Valued:
    kind = draw(st.sampled_from(["scalar", "scalar", "array", "object", "optional", "node"])) if depth < 2 else "scalar"
    match kind:
        case "array":
            schema, item = draw(_value(depth + 1))
            n_items = draw(st.integers(0, 2))
            return {"type": "array", "items": schema, "minItems": n_items, "maxItems": n_items + 1}, [item] * n_items
        case "object":
            return draw(_object(depth + 1))
        case "optional":
            schema, value = draw(_value(depth + 1))
            return {"anyOf": [schema, {"type": "null"}]}, draw(st.sampled_from([value, None]))
        case "node":
            last: dict[str, Any] = {"v": draw(st.integers(0, 9)), "next": None}
            return {"$ref": "#/$defs/Node"}, draw(st.sampled_from([last, {"v": 1, "next": last}, {"v": 2}]))
        case _:
            return draw(_scalar())


@st.composite
def _object(draw: st.DrawFn, depth: int = 0) -> Valued:
    keys = draw(st.lists(st.sampled_from(_KEYS), unique=True, max_size=4))
    members = {key: draw(_value(depth)) for key in keys}
    optional = {key for key in keys if draw(st.booleans())}
    schema: dict[str, Any] = {
        "type": "object",
        "description": "An object.",
        "properties": {key: one for key, (one, _) in members.items()},
        "required": [key for key in keys if key not in optional],
    }
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.sampled_from([False, {"type": "integer"}]))
    return schema, {key: value for key, (_, value) in members.items() if key not in optional or draw(st.booleans())}


@st.composite
def tools_with_arguments(draw: st.DrawFn) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return tools as their names and schemas, each with arguments."""
    found = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3)):
        schema, value = draw(_object())
        found.append((name, {**schema, "$defs": {"Node": NODE}}, value))
    return found

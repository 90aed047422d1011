"""Schemas for the measurements: one that never ends, random ones, and published ones."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ENDLESS", "published", "random_schema"]

ENDLESS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 16},
            "count": {"type": "integer"},
            "ratio": {"type": "number"},
            "kind": {"enum": ["first", "second", "third"]},
            "notes": {"type": "array", "items": {"type": "string", "maxLength": 16}, "maxItems": 3},
            "is_done": {"type": "boolean"},
        },
        "required": ["name", "count", "ratio", "kind", "notes", "is_done"],
        "additionalProperties": False,
    },
    "minItems": 1000,
}
"""An answer in this form does not end before any usual limit of tokens. Its texts are short, because a model with
random weights would not end them, and the answer would have no form."""

_NAMES = ("name", "age", "日本", "a b", 'x"y', "list", "deep", "é", "back\\slash")
_PATTERNS = ("^[a-z]{2,5}$", "^(red|green)-[0-9]+$", "^[A-Z][a-z]*( [A-Z][a-z]*)?$")


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a schema with most of the supported keywords."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    match rng.choice([*kinds, "object", "object", "array", "anyOf"] if depth < 3 else kinds):
        case "object":
            names = [f"{rng.choice(_NAMES)}{n}" for n in range(rng.randint(0, 4))]
            properties = {name: random_schema(rng, depth + 1) for name in names}
            required = [name for name in names if rng.random() < 0.7]
            return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        case "array":
            least = rng.randint(0, 2)
            items = random_schema(rng, depth + 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + rng.randint(0, 3)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1), random_schema(rng, depth + 1)]}
        case "string":
            least = rng.randint(0, 3)
            return rng.choice(
                (
                    {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)},
                    {"type": "string", "pattern": rng.choice(_PATTERNS), "maxLength": 20},
                    {"type": "string", "format": rng.choice(("date", "time", "ipv4", "uuid"))},
                )
            )
        case "integer":
            return {"type": "integer", "minimum": rng.randint(-1000, 0), "maximum": rng.randint(1, 10**6)}
        case "number":
            return {"type": "number", "minimum": 0, "exclusiveMaximum": rng.choice((1, 10.5, 1000))}
        case "enum":
            return {"enum": rng.choice((["a", "b"], [1, 2, None], ["é", "漢字", "😀"], [{"a": 1}, []]))}
        case "const":
            return {"const": rng.choice(("fixed", 7, True, None))}
        case kind:
            return {"type": kind}


def published(folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """Yield different schemas that others published: OpenAI's API description and the JSON Schema Test Suite.

    `folder` is the one with `openai/openapi.json` and `json-schema/`.
    """
    components = json.loads((folder / "openai" / "openapi.json").read_text("utf-8"))["components"]["schemas"]
    suite = [
        group["schema"]
        for path in sorted((folder / "json-schema").glob("*.json"))
        for group in json.loads(path.read_text("utf-8"))
    ]
    found: dict[str, dict[str, Any]] = {}
    for schema in [*_with_definitions(components), *suite]:
        if isinstance(schema, dict) and len(found) < most:
            found.setdefault(json.dumps(schema), schema)
    yield from found.values()


def _with_definitions(components: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each component with the components that it refers to."""
    for name in components:
        needed, todo = {}, [name]
        while todo:
            at = todo.pop()
            if at not in needed and at in components:
                needed[at] = components[at]
                todo += _references(components[at])
        text = json.dumps({"$ref": f"#/$defs/{name}", "$defs": needed}).replace("#/components/schemas/", "#/$defs/")
        yield json.loads(text)


def _references(value: object) -> Sequence[str]:
    if isinstance(value, dict):
        own = [value["$ref"].rpartition("/")[2]] if isinstance(value.get("$ref"), str) else []
        return own + [name for item in value.values() for name in _references(item)]
    return [name for item in value for name in _references(item)] if isinstance(value, list) else []

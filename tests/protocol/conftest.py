"""OpenAI's published schemas as a check: `conforms("CreateCompletionResponse", body)`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

OPENAPI = Path(__file__).parents[3] / "shared" / "openai" / "openapi.json"
BASE = "urn:openai"


def _completion_chunk(schemas: dict[str, Any]) -> dict[str, Any]:
    """OpenAI publishes one shape for a completion and its chunks, but on the wire a chunk's finish_reason and usage are
    null until the last one. For chat, where the chunk has a shape of its own, the document says so too.
    """
    chunk: dict[str, Any] = json.loads(json.dumps(schemas["CreateCompletionResponse"]))
    chunk["properties"]["choices"]["items"]["properties"]["finish_reason"]["nullable"] = True
    chunk["properties"]["usage"] = {"nullable": True, **chunk["properties"]["usage"]}
    return chunk


def _as_2020_12(schema: Any, *, is_part: bool = False) -> Any:
    """Read `nullable`, a word of OpenAPI 3.0 that OpenAI's 3.1 document still uses, and allow no keys but the named.

    The parts of `allOf` are closed together.
    """
    if isinstance(schema, list):
        return [_as_2020_12(item, is_part=is_part) for item in schema]
    if not isinstance(schema, dict):
        return schema
    nullable = schema.get("nullable") is True
    kept = {key: value for key, value in schema.items() if not (key == "nullable" and nullable)}
    plain = {key: _as_2020_12(value, is_part=key == "allOf") for key, value in kept.items()}
    if "allOf" in plain and not is_part:
        plain["unevaluatedProperties"] = False
    elif isinstance(plain.get("properties"), dict) and not is_part:
        plain.setdefault("additionalProperties", False)
    return {"anyOf": [plain, {"type": "null"}]} if nullable else plain


def _parts_of_all_of(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, list):
        for item in schema:
            yield from _parts_of_all_of(item)
    elif isinstance(schema, dict):
        yield from schema["allOf"] if isinstance(schema.get("allOf"), list) else ()
        yield from _parts_of_all_of(list(schema.values()))


@functools.cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(OPENAPI.read_text())
    schemas = document["components"]["schemas"]
    schemas["ResponseUsage"]["nullable"] = True  # on the wire, until the response has ended
    schemas["CompletionChunk"] = _completion_chunk(schemas)
    return document


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    schemas = _document()["components"]["schemas"]
    parts = {part["$ref"].rpartition("/")[2] for part in _parts_of_all_of(schemas) if "$ref" in part}
    closed = {key: _as_2020_12(value, is_part=key in parts) for key, value in schemas.items()}
    document = {"components": {"schemas": closed}}
    registry: Registry[Any] = Registry().with_resource(BASE, DRAFT202012.create_resource(document))
    return Draft202012Validator({"$ref": f"{BASE}#/components/schemas/{name}"}, registry=registry)


@pytest.fixture
def openapi() -> dict[str, Any]:
    if not OPENAPI.exists():
        pytest.skip(f"no {OPENAPI}")
    return _document()


@pytest.fixture
def conforms(openapi: dict[str, Any]) -> Callable[[str, Any], None]:
    def check(name: str, body: Any) -> None:
        assert name in openapi["components"]["schemas"]
        # Through text, as a client sees it: what is no JSON fails here.
        errors = list(_validator(name).iter_errors(json.loads(json.dumps(body, allow_nan=False))))
        assert not errors, "\n".join(f"{error.json_path}: {error.message[:300]}" for error in errors)

    return check

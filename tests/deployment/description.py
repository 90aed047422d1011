"""Checks requests and answers against RunPod's published OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

__all__ = ["PUBLISHED", "Description"]

# The project's shared folder lies beside its checkout.
PUBLISHED: Final = Path(__file__).resolve().parents[3] / "shared" / "runpod" / "openapi-v2.json"
_URN: Final = "urn:runpod"


class Description:
    def __init__(self, path: Path = PUBLISHED) -> None:
        self.document: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        assert self.document["openapi"].startswith("3.1"), "3.1 speaks JSON Schema 2020-12"
        resource = DRAFT202012.create_resource(self.document)
        self._registry: Registry[Any] = Registry().with_resource(_URN, resource)

    def operation(self, method: str, path: str) -> Mapping[str, Any] | None:
        """Return the operation of a request, or None if the description has no such path or method."""
        for template, operations in self.document["paths"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", template)
            if re.fullmatch(pattern, path) and method.lower() in operations:
                found: Mapping[str, Any] = operations[method.lower()]
                return found
        return None

    def request_faults(self, method: str, path: str, query: str, content_type: str, body: Any) -> list[str]:
        """Return the differences between a request and its description."""
        operation = self.operation(method, path)
        if operation is None:
            return [f"{method} {path} is not described"]
        faults = []
        known = {parameter.get("name") for parameter in operation.get("parameters", [])}
        faults += [
            f"{part} is no parameter" for part in filter(None, query.split("&")) if part.split("=")[0] not in known
        ]
        described = operation.get("requestBody")
        if described is None:
            return faults + (["a body where none is described"] if body is not None else [])
        if body is None:
            return [*faults, "no body"]
        if content_type.split(";")[0] not in described["content"]:
            return [*faults, f"content type {content_type}"]
        return [*faults, *self._faults(described["content"]["application/json"]["schema"], body)]

    def answer_faults(self, method: str, path: str, status: int, content_type: str, body: Any) -> list[str]:
        operation = self.operation(method, path)
        if operation is None:
            return []
        described = operation["responses"].get(str(status)) or operation["responses"].get("default")
        if described is None:
            return [f"{status} is not described"]
        if "$ref" in described:
            described = self.document["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
        content = described.get("content")
        if content is None:
            return [] if body is None else [f"{status} has a body"]
        if content_type not in content:
            return [f"{status} as {content_type}"]
        return list(self._faults(content[content_type]["schema"], body))

    def _faults(self, schema: Mapping[str, Any], value: Any) -> Iterator[str]:
        # A schema's references are into the document: give it the document's address.
        validator = Draft202012Validator(_rooted(schema), registry=self._registry)
        for error in validator.iter_errors(value):
            yield f"{'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message}"


def _rooted(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: _URN + value if key == "$ref" and isinstance(value, str) else _rooted(value)
            for key, value in schema.items()
        }
    return [_rooted(item) for item in schema] if isinstance(schema, list) else schema

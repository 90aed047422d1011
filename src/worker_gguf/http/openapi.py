"""Builds /openapi.json, which describes the bodies, answers and errors of each route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from worker_gguf import __version__
from worker_gguf.errors import NotReady
from worker_gguf.protocol.bodies import Common
from worker_gguf.protocol.parameters import ALIASES
from worker_gguf.protocol.route import Generation, Pooling, Route

__all__ = ["document"]

_ERRORS = {
    "400": "The request is malformed, or a parameter is not supported.",
    "401": "The API key is missing or wrong.",
    "404": "No such model or route exists.",
    "413": "The body is over the limit.",
    "415": "The Content-Encoding of the body is not supported.",
    "429": "The queue is full. Retry-After has the seconds to wait.",
    "500": "The engine failed on this request.",
    "503": "The worker is loading, draining or failed.",
    "504": "The request timed out.",
    "529": "The worker is loading, draining or failed.",
}
# One server-sent event, described like the items of a stream in OpenAPI 3.2. `data` is the JSON of a chunk, or [DONE].
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
# One line of JSON of a stream.
_LINE = {"type": "object"}
_REF = "#/components/schemas/{model}"
_KEY: list[dict[str, Any]] = [{"apiKey": []}]
_OPEN: list[dict[str, Any]] = []
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
# The envelopes of other dialects, by their names.
_ERRORS_OF: dict[str, tuple[str, dict[str, Any]]] = {
    "ollama": (
        "OllamaError",
        {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    ),
    "anthropic": (
        "AnthropicError",
        {
            "type": "object",
            "required": ["type", "error", "request_id"],
            "properties": {
                "type": {"const": "error"},
                "error": {
                    "type": "object",
                    "required": ["type", "message"],
                    "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
                },
                "request_id": {"type": ["string", "null"]},
            },
        },
    ),
    "llama_server": (
        "LlamaServerError",
        {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["code", "message", "type", "param"],
                    "properties": {
                        "code": {"type": "integer"},
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                    },
                }
            },
        },
    ),
}


def _errors(*statuses: str, dialect: str = "") -> dict[str, Any]:
    name, _ = _ERRORS_OF.get(dialect, ("Error", _ERROR_SCHEMA))
    schema = {"schema": {"$ref": _REF.format(model=name)}}
    return {s: {"description": _ERRORS[s], "content": {"application/json": schema}} for s in statuses}


def _json(description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema or {"type": "object"}}}}


_HEALTH: dict[str, Any] = {
    "operationId": "health",
    "summary": "Phase, model, slots, queue, memory plan and timeline of the start",
    "security": _OPEN,
    "responses": {"200": _json("Starting or ready."), "503": _json("Draining, stopped or failed.")},
}
_METRICS: dict[str, Any] = {
    "operationId": "metrics",
    "summary": "Metrics in Prometheus' text format",
    "responses": {
        "200": {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_errors("401"),
    },
}
_PING: dict[str, Any] = {
    "summary": "Health check for load balancers",
    "operationId": "ping",
    "security": _OPEN,
    "responses": {
        "200": {"description": "Ready."},
        "204": {"description": "The model is loading."},
        "503": {"description": "Draining, stopped or failed."},
    },
}


def document(routes: Iterable[Route], *, has_keys: bool) -> dict[str, Any]:
    """Return the OpenAPI document. `routes` are the routes that need an API key if `has_keys`."""
    paths: dict[str, dict[str, Any]] = {"/health": {"get": _HEALTH}, "/metrics": {"get": _METRICS}}
    body_models = {task.body: None for route in routes if (task := route.task).body is not None}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    paths["/ping"] = {"get": _PING}
    _, bodies = models_json_schema([(body, "validation") for body in body_models], ref_template=_REF)
    schemas = bodies.get("$defs", {}) | {"Error": _ERROR_SCHEMA} | dict(_ERRORS_OF.values())
    for body in body_models:
        if issubclass(body, Common):
            _name_aliases(schemas[body.__name__]["properties"])
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "worker-gguf", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if has_keys:
        result["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        result["security"] = _KEY
    return result


def _operation(route: Route) -> dict[str, Any]:
    task = route.task
    generates = isinstance(task, Generation)
    is_ollama = route.dialect.name == "ollama"
    # A few routes answer several prompts, or as Text Embeddings Inference does, with a list.
    may_be_list = route.dialect.name == "llama_server" or isinstance(task, Pooling)
    common = ["401", "404", "503"]
    if task.body is not None:
        common = ["400", "401", "404", "413", "415", "429", "500", "503", "504"]
    if (unavailable := str(route.dialect.status(NotReady("")))) not in common:
        common[common.index("503")] = unavailable
    name = route.path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    described: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{name}_{route.method.lower()}",
        "responses": {
            "200": _json("The answer.", {"type": ["object", "array"]} if may_be_list else None),
            **_errors(*common, dialect=route.dialect.name),
        },
    }
    if task.body is not None:
        body = {"$ref": _REF.format(model=task.body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if generates:
        media_type = route.dialect.framing.media_type.partition(";")[0]
        described["responses"]["200"]["content"][media_type] = {"schema": _LINE if is_ollama else _EVENT}
    if "{model_id}" in route.path:
        described["parameters"] = [
            {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return described


def _name_aliases(properties: dict[str, Any]) -> None:
    for name, described in properties.items():
        if also := sorted(alias for alias, target in ALIASES.items() if target == name):
            described["description"] = f"{described.get('description', '')} Also as {', '.join(also)}.".lstrip()

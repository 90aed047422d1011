"""The published document, /openapi.json: what each route takes and how it fails. Describes, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from worker_gguf import __version__
from worker_gguf.protocol.bodies import ChatBody, CompletionBody
from worker_gguf.protocol.parameters import ALIASES

__all__ = ["document"]

_ERRORS = {
    "400": "The request is malformed, or a parameter cannot be honoured.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model or route.",
    "405": "The route has another method.",
    "413": "The body is over the limit.",
    "429": "The queue is full; Retry-After says when to come back.",
    "500": "The engine failed on this request.",
    "503": "The worker is loading, draining or failed.",
    "504": "The request's time was over.",
}
# One server-sent event, as OpenAPI 3.2 describes the items of a stream: a chunk's JSON, or [DONE].
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
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


def _errors(*statuses: str) -> dict[str, Any]:
    schema = {"schema": {"$ref": _REF.format(model="Error")}}
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
    "summary": "Health for a balancer",
    "operationId": "ping",
    "security": _OPEN,
    "responses": {
        "200": {"description": "Ready."},
        "204": {"description": "The model is loading."},
        "503": {"description": "Draining, stopped or failed."},
    },
}
_SUMMARIES = {
    "/v1/models": "The models served here",
    "/v1/models/{model_id}": "One model",
    "/v1/chat/completions": "Answer a conversation",
    "/v1/completions": "Continue a text",
}
_BODIES: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}


def document(routes: Iterable[tuple[str, str]], *, has_keys: bool) -> dict[str, Any]:
    """Describe the application. `routes` are those under /v1, method and path, which want a key if there are any."""
    paths: dict[str, dict[str, Any]] = {"/health": {"get": _HEALTH}, "/metrics": {"get": _METRICS}}
    for method, path in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(method, path)
    paths["/ping"] = {"get": _PING}
    _, bodies = models_json_schema([(body, "validation") for body in _BODIES.values()], ref_template=_REF)
    schemas = bodies.get("$defs", {}) | {"Error": _ERROR_SCHEMA}
    for body in _BODIES.values():
        _name_aliases(schemas[body.__name__]["properties"])
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "worker-gguf", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if has_keys:
        made["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        made["security"] = _KEY
    return made


def _operation(method: str, path: str) -> dict[str, Any]:
    common = ("400", "401", "404", "413", "429", "500", "503", "504") if method == "POST" else ("401", "404", "503")
    described: dict[str, Any] = {
        "summary": _SUMMARIES[path],
        "operationId": f"{path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}_{method.lower()}",
        "responses": {"200": _json("The answer."), **_errors(*common)},
    }
    if method == "POST":
        body = {"$ref": _REF.format(model=_BODIES[path].__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        described["responses"]["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
    if "{model_id}" in path:
        described["parameters"] = [
            {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return described


def _name_aliases(properties: dict[str, Any]) -> None:
    for name, described in properties.items():
        if also := sorted(alias for alias, target in ALIASES.items() if target == name):
            described["description"] = f"{described.get('description', '')} Also as {', '.join(also)}.".lstrip()

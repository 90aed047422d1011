"""Reads the input of a job, which can have any of the three shapes that RunPod's users send.

{"openai_route": "/v1/chat/completions", "openai_input": {...}}     what the platform makes of /openai/v1/...
{"route": "/v1/chat/completions", "body": {...}, "method": "POST"}
{"messages" | "prompt": ..., "sampling_params": {...}, ...}         parameters next to it, or in sampling_params
"""

from __future__ import annotations

from dataclasses import dataclass

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.routes import CHAT, COMPLETIONS

__all__ = ["Call", "read_job_input"]

_SHAPES = (
    "Send {'openai_route', 'openai_input'}, {'route', 'body', 'method'}, or 'messages' or 'prompt' with its parameters."
)


@dataclass(frozen=True, slots=True)
class Call:
    """The request in a job's input."""

    method: str
    route: str
    body: object
    ignored: tuple[str, ...] = ()
    """Further names of the job's input, which no shape knows."""


def read_job_input(given: object) -> Call:
    """Read an input of any shape. Raises InvalidRequest if it has none of them. The service checks the body."""
    if not isinstance(given, dict):
        raise InvalidRequest(f"The job's input must be a JSON object. {_SHAPES}")
    if "openai_route" in given:
        return _passthrough(given)
    if "route" in given:
        return _routed(given)
    if "messages" in given or "prompt" in given:
        return _plain(given)
    raise InvalidRequest(f"The job's input names no route and has nothing to answer. {_SHAPES}")


def _passthrough(given: dict[str, object]) -> Call:
    route = _text(given, "openai_route")
    body = given.get("openai_input")
    # The platform sends a GET as an absent, null or empty input; the method itself does not reach the worker.
    if body is None or body == {}:
        return Call("GET", route, None, _others(given, "openai_route", "openai_input"))
    return Call("POST", route, body, _others(given, "openai_route", "openai_input"))


def _routed(given: dict[str, object]) -> Call:
    route = _text(given, "route")
    body = given.get("body")
    if given.get("method") is None:
        return Call("GET" if body is None else "POST", route, body, _others(given, "route", "body", "method"))
    return Call(_text(given, "method").upper(), route, body, _others(given, "route", "body", "method"))


def _others(given: dict[str, object], *known: str) -> tuple[str, ...]:
    return tuple(sorted(given.keys() - set(known)))


def _plain(given: dict[str, object]) -> Call:
    if "messages" in given and "prompt" in given:
        raise InvalidRequest("The job's input has both 'messages' and 'prompt'. Send one of them.", param="prompt")
    body = {name: value for name, value in given.items() if name != "sampling_params"}
    for name, value in _sampling_params(given).items():
        if name in body and body[name] != value:
            raise InvalidRequest(f"'{name}' has one value next to 'sampling_params' and another inside it.", param=name)
        body[name] = value
    # With this parameter of worker-vllm, a bare prompt is answered as a conversation of one message.
    if body.pop("apply_chat_template", None) is True and isinstance(body.get("prompt"), str):
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    return Call("POST", CHAT.path if "messages" in body else COMPLETIONS.path, body)


def _sampling_params(given: dict[str, object]) -> dict[str, object]:
    params = given.get("sampling_params")
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise InvalidRequest("'sampling_params' must be a JSON object.", param="sampling_params")
    if clash := sorted({"messages", "prompt", "sampling_params"} & params.keys()):
        raise InvalidRequest(f"'{clash[0]}' cannot be inside 'sampling_params'.", param="sampling_params")
    return params


def _text(given: dict[str, object], name: str) -> str:
    value = given[name]
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string.", param=name)
    return value

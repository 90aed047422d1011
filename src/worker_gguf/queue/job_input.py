"""Reads the input of a job, which has one of four shapes. Independent of the SDK.

{"openai_route": "/v1/chat/completions", "openai_input": {...}}     sent by the platform for /openai/v1/...
{"route": "/v1/chat/completions", "body": {...}, "method": "POST"}
{"messages" | "prompt": ..., "sampling_params": {...}, ...}         parameters next to it, or under sampling_params
{"batch": [...] | "https://..."}, or a list                         many requests in OpenAI's batch format
"""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.routes import CHAT, COMPLETIONS
from worker_gguf.protocol.screening import bounded
from worker_gguf.protocol.wellformed import MAX_NAME

__all__ = ["BatchCall", "JobCall", "read_batch_input", "read_job_input"]

_SHAPES = (
    "Send {'openai_route', 'openai_input'}, {'route', 'body', 'method'}, 'messages' or 'prompt' with its parameters, "
    "or many requests in 'batch'."
)


class JobCall(Struct, frozen=True):
    """The request in a job's input."""

    method: str
    route: str
    body: object
    ignored: tuple[str, ...] = ()
    """Other names in the job's input, which have no meaning."""
    absent: str | None = None
    """The place of the body, if there is none and the method is GET for that reason."""


class BatchCall(Struct, frozen=True):
    """Many requests: a list of them, or the URL of a file."""

    requests: list[object] | str


def read_batch_input(job_input: object) -> BatchCall | None:
    """Return the requests of an input that has many, or None for the other shapes. Raises InvalidRequest."""
    if isinstance(job_input, list) and job_input:
        return BatchCall(job_input)
    if isinstance(job_input, dict) and "batch" in job_input:
        return _batch(job_input)
    return None


def read_job_input(job_input: object) -> JobCall:
    """Recognise the shape of an input with one request and return its call. Raises InvalidRequest.

    The service checks the body.
    """
    if not isinstance(job_input, dict):
        raise InvalidRequest(f"The job's input must be a JSON object. {_SHAPES}")
    if "openai_route" in job_input:
        return _passthrough(job_input)
    if "route" in job_input:
        return _routed(job_input)
    if "messages" in job_input or "prompt" in job_input:
        return _plain(job_input)
    raise InvalidRequest(f"The job's input names no route and has nothing to answer. {_SHAPES}")


def _batch(job_input: dict[str, object]) -> BatchCall:
    if others := _others(job_input, "batch"):
        raise InvalidRequest(
            f"'{others[0][:MAX_NAME]}' has no meaning next to 'batch': each request has its own parameters."
        )
    requests = job_input["batch"]
    if isinstance(requests, str):
        if not requests.lower().startswith(("https://", "http://")):
            raise InvalidRequest("The URL in 'batch' must begin with https:// or http://.", param="batch")
        return BatchCall(requests)
    if requests == []:
        raise InvalidRequest("'batch' has no requests. Send at least one.", param="batch")
    if not isinstance(requests, list):
        raise InvalidRequest("'batch' must be a list of requests, or the URL of a file of them.", param="batch")
    return BatchCall(requests)


def _passthrough(job_input: dict[str, object]) -> JobCall:
    route = _text(job_input, "openai_route")
    body = job_input.get("openai_input")
    # The platform does not send the method. For a GET, the input is absent, null or empty.
    if body is None or body == {}:
        return JobCall("GET", route, None, _others(job_input, "openai_route", "openai_input"), "openai_input")
    return JobCall("POST", route, body, _others(job_input, "openai_route", "openai_input"))


def _routed(job_input: dict[str, object]) -> JobCall:
    route = _text(job_input, "route")
    body = job_input.get("body")
    others = _others(job_input, "route", "body", "method")
    if job_input.get("method") is None:
        return JobCall("GET", route, None, others, "body") if body is None else JobCall("POST", route, body, others)
    method = _text(job_input, "method").upper()
    if method == "GET" and body is not None:  # as over HTTP, where the body of a GET is not read
        return JobCall(method, route, None, _others(job_input, "route", "method"))
    return JobCall(method, route, body, others)


def _others(job_input: dict[str, object], *known: str) -> tuple[str, ...]:
    return bounded(job_input.keys() - set(known))


def _plain(job_input: dict[str, object]) -> JobCall:
    if "messages" in job_input and "prompt" in job_input:
        raise InvalidRequest("The job's input has both 'messages' and 'prompt'. Send one of them.", param="prompt")
    body = {name: value for name, value in job_input.items() if name != "sampling_params"}
    for name, value in _sampling_params(job_input).items():
        if name in body and body[name] != value:
            raise InvalidRequest(f"'{name}' has one value next to 'sampling_params' and another inside it.", param=name)
        body[name] = value
    # In worker-vllm, this parameter turns a prompt into a chat with one message.
    if body.pop("apply_chat_template", None) is True and isinstance(body.get("prompt"), str):
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    return JobCall("POST", CHAT.path if "messages" in body else COMPLETIONS.path, body)


def _sampling_params(job_input: dict[str, object]) -> dict[str, object]:
    params = job_input.get("sampling_params")
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise InvalidRequest("'sampling_params' must be a JSON object.", param="sampling_params")
    if clash := sorted({"messages", "prompt", "sampling_params"} & params.keys()):
        raise InvalidRequest(f"'{clash[0]}' cannot be inside 'sampling_params'.", param="sampling_params")
    return params


def _text(job_input: dict[str, object], name: str) -> str:
    value = job_input[name]
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string.", param=name)
    return value

"""Tests the running worker against /openapi.json with schemathesis: any input, on any route."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.conftest import Running
from worker_gguf.protocol.parameters import ALIASES

pytestmark = pytest.mark.usefixtures("all_slots_free")

ASKED = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
    *("/api/chat", "/api/generate", "/completion"),
)
COUNTED = (
    *("/v1/responses/input_tokens", "/v1/messages/count_tokens", "/v1/chat/completions/input_tokens"),
    *("/tokenize", "/detokenize", "/apply-template", "/api/show"),
)
# The embedded model cannot fill gaps, and makes no vectors.
REFUSED = (
    *("/infill", "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/v1/reranking", "/v1/score"),
    *("/api/embed", "/api/embeddings"),
)
READ = (
    *("/health", "/metrics", "/ping", "/props", "/slots", "/v1/models", "/v1/models/{model_id}"),
    *("/api/tags", "/api/ps", "/api/version", "/lora-adapters"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
CONTROLS = bytes([*range(32), 127])  # not HTTP: the server's parser refuses them before any route
CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "/v1/completions": {"prompt": "One, two,"},
    "/v1/responses": {"input": "What is the capital of France?"},
    "/v1/responses/input_tokens": {"input": "What is the capital of France?"},
    "/v1/messages": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "/api/chat": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "/api/generate": {"prompt": "What is the capital of France?"},
    "/api/show": {"model": "embedded"},
    "/v1/chat/completions/input_tokens": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "/completion": {"prompt": "One, two,"},
    "/tokenize": {"content": "One, two,"},
    "/detokenize": {"tokens": [300, 301]},
    "/apply-template": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
}

# The same examples each time: a new one belongs into a change, not into somebody's unrelated test run.
# A busy machine is slow at making examples up; that says nothing of the worker.
FEW = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=50,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.large_base_example],
)

MANY = settings(FEW, max_examples=200)


@pytest.fixture(scope="module")
def published(running: Running) -> Any:
    return schemathesis.openapi.from_url(f"{running.url}/openapi.json")


def test_the_document_has_these_routes(published: Any) -> None:
    labels = {operation.ok().label for operation in published.get_all_operations()}
    assert labels == {f"POST {path}" for path in (*ASKED, *COUNTED, *REFUSED)} | {f"GET {path}" for path in READ}


@pytest.mark.parametrize("path", ASKED)
def test_a_stream_is_answered_as_published(published: Any, path: str) -> None:
    case = published[path]["POST"].Case(
        body={**GOOD[path], "stream": True, "max_tokens": 3}, media_type="application/json"
    )
    case.validate_response(sent(case), checks=[not_a_server_error, *CHECKS])


def test_the_document_names_every_alias(published: Any) -> None:
    schemas = published.raw_schema["components"]["schemas"]
    for alias, name in ALIASES.items():
        bodies = [schemas[body]["properties"] for body in ("ChatBody", "CompletionBody")]
        described = [properties[name]["description"] for properties in bodies if name in properties]
        assert described
        assert all(alias in text for text in described)


@pytest.mark.parametrize("path", READ)
def test_a_route_to_read_answers_as_published(published: Any, path: str) -> None:
    @FEW
    @given(published[path]["GET"].as_strategy())
    def each(case: Any) -> None:
        response = sent(case)
        case.validate_response(response, checks=[not_a_server_error, *CHECKS])

    each()


@pytest.mark.parametrize("path", COUNTED)
def test_a_prompt_is_inspected_as_published(published: Any, path: str) -> None:
    case = published[path]["POST"].Case(body=GOOD[path], media_type="application/json")
    case.validate_response(sent(case), checks=[not_a_server_error, *CHECKS])


@pytest.mark.parametrize("path", [*ASKED, *COUNTED])
def test_a_body_against_the_schema_is_refused(published: Any, path: str) -> None:
    mode = schemathesis.GenerationMode.NEGATIVE

    @FEW
    @given(published[path]["POST"].as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        response = sent(case)
        case.validate_response(response, checks=[not_a_server_error, negative_data_rejection, *CHECKS])

    each()


@pytest.mark.parametrize("path", [*ASKED, *COUNTED])
def test_a_body_of_the_schema_is_answered_or_refused(published: Any, path: str) -> None:
    statuses: Counter[int] = Counter()

    # The two bodies with all parameters get more: most dialects hand theirs to the same parser.
    @(MANY if path in ("/v1/chat/completions", "/v1/completions") else FEW)
    @given(published[path]["POST"].as_strategy(), st.booleans())
    def each(case: Any, mends: bool) -> None:
        case.body = cheap(path, case.body | GOOD[path] if mends else case.body)
        response = sent(case)
        statuses[response.status_code] += 1
        if response.status_code == 504:
            assert case.body["timeout"] < 60  # a deadline that short is rightly met; every other one is not
        else:
            case.validate_response(response, checks=[not_a_server_error, *CHECKS])

    each()
    assert statuses[200] > 5, statuses


@MANY
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from([*ASKED, *READ, "/openapi.json"]) | st.text(max_size=12).map(lambda text: f"/{quote(text)}"),
    query=st.text(max_size=12).map(quote),
    body=st.binary(max_size=40),
    header=st.binary(max_size=20).map(lambda raw: raw.translate(None, CONTROLS).strip()),
)
def test_any_method_on_any_path_is_no_5xx(
    running: Running, method: str, path: str, query: str, body: bytes, header: bytes
) -> None:
    headers = {b"X-Request-Id": header, b"Authorization": header, b"Content-Type": header, b"Accept": header}
    response = httpx.request(method, f"{running.url}{path}?{query}", content=body, headers=headers)
    check_response(response.status_code, response.headers, b"" if method == "HEAD" else response.content)


def cheap(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Few tokens, so that many bodies can be tried; and 3.0 as 3, for the worker takes no float as an integer.

    Without the fields of the Responses API that need state, which are published because they are known.
    """
    whole = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in body.items()}
    if "responses" in path:
        stateful = {"previous_response_id", "conversation", "background", "prompt"}
        whole = {name: value for name, value in whole.items() if name not in stateful}
    if path.startswith("/api/"):
        options: Any = whole.get("options")
        return {**whole, "options": {**options, "num_predict": 4}} if options else whole
    limits = {"/v1/responses": {"max_output_tokens": 4}, "/v1/messages": {"max_tokens": 4}}.get(
        path, {"max_tokens": 4, "n": 2}
    )
    for name, most in limits.items() if path in ASKED else ():
        value = whole.get(name)
        whole[name] = min(value, most) if isinstance(value, int) and value >= 0 else most
    return whole


def sent(case: Any) -> Any:
    response = case.call()
    headers = httpx.Headers([(name, value) for name, values in response.headers.items() for value in values])
    check_response(response.status_code, headers, response.content)
    return response


def check_response(status: int, headers: httpx.Headers, content: bytes) -> None:
    """Allow no 5xx except that of a deadline, and require OpenAI's or Anthropic's envelope for every error."""
    assert status < 500 or status == 504, content
    kind = headers.get("content-type", "")
    if status == 200 and kind.startswith("text/event-stream"):
        last = content.rstrip(b"\n").rsplit(b"\n", 1)[-1]
        # Three dialects have no [DONE].
        ends = (b'data: {"type":"response.', b'data: {"index":', b'data: {"error":', b'data: {"type":"message_stop"}')
        assert last == b"data: [DONE]" or last.startswith(ends), content[-1000:]
    if status == 200 and kind.startswith("application/x-ndjson"):
        last = json.loads(content.rstrip(b"\n").rsplit(b"\n", 1)[-1])
        assert last.keys() & {"done_reason", "error"}, last
    if status < 400 or not content:
        return
    assert kind == "application/json"
    body = json.loads(content)
    error = body["error"]
    if isinstance(error, str):  # of Ollama's API
        assert error
        assert "Traceback" not in error
        return
    is_anthropic = body.get("type") == "error"
    assert ({"message", "type"} if is_anthropic else {"message", "type", "param", "code"}) <= error.keys()
    assert error["message"]
    assert "Traceback" not in error["message"]
    if status == 429:
        assert is_anthropic or error["code"] == "queue_full"
        assert int(headers["retry-after"]) > 0

"""Tests of keys, bodies, routes and answers, over a real connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.fake_backend import SECRET_ANSWER, SECRET_PROMPT, FakeBackend
from tests.http.serving import CHAT, KEY, Served, serving
from tests.log_lines import log_lines


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with serving(api_keys=("sk-other", KEY)) as served:
        yield served


GOOD = {"messages": [{"role": "user", "content": SECRET_PROMPT}]}


def envelope(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    error: dict[str, Any] = reply.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    return error


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", "Basic sk-right", f"{KEY}", "Bearer \xff\xfe"]
)
def test_wrong_key_is_401_and_never_reaches_the_backend(keyed: Served, authorization: str | None) -> None:
    headers = httpx.Headers([] if authorization is None else [("Authorization", authorization)], encoding="latin-1")
    reply = keyed.client.post(CHAT, json=GOOD, headers=headers)
    assert reply.status_code == 401
    assert envelope(reply)["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert keyed.backend.calls == []


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer   {KEY}"])
def test_right_key_is_let_in(keyed: Served, authorization: str) -> None:
    assert keyed.client.post(CHAT, json=GOOD, headers={"Authorization": authorization}).status_code == 200


MALFORMED = [
    b"",
    b"   ",
    b"{",
    b"\xff\xfe{}",
    b'{"messages": "\xc3"}',
    b'{"messages": [NaN]}',
    b'{"messages": [-Infinity]}',
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b'{"n": ' + b"9" * 5000 + b"}",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:20]))
def test_malformed_body_is_400_and_the_next_request_is_answered(plain: Served, body: bytes) -> None:
    reply = plain.client.post(CHAT, content=body)
    assert reply.status_code == 400
    assert envelope(reply)["type"] == "invalid_request_error"
    assert plain.client.post(CHAT, json=GOOD).status_code == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "garbage", ""])
def test_content_type_is_ignored(plain: Served, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert plain.client.post(CHAT, content=json.dumps(GOOD), headers=headers).status_code == 200


def test_announced_body_over_the_limit_is_413() -> None:
    with serving(max_body_bytes=1000) as served:
        reply = served.client.post(CHAT, content=b"x" * 1001)
        assert reply.status_code == 413
        assert "MB (" in reply.json()["error"]["message"]
        assert envelope(reply)["code"] == "payload_too_large"
        assert served.client.post(CHAT, json=GOOD).status_code == 200


def test_streamed_body_over_the_limit_is_413() -> None:
    with serving(max_body_bytes=1000) as served:
        reply = served.client.post(CHAT, content=(b"x" * 100 for _ in range(50)))
        assert reply.status_code == 413
        assert "MB (" in reply.json()["error"]["message"]


def test_body_at_the_limit_is_taken() -> None:
    body = json.dumps(GOOD).encode()
    with serving(max_body_bytes=len(body)) as served:
        assert served.client.post(CHAT, content=body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", CHAT, "POST"), ("DELETE", "/v1/models", "GET"), ("PUT", "/health", "GET")]
)
def test_wrong_method_is_405_with_allow(plain: Served, method: str, path: str, allow: str) -> None:
    reply = plain.client.request(method, path)
    assert reply.status_code == 405
    assert reply.headers["allow"] == allow
    assert envelope(reply)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/lora-adapters", "/v1/lora-adapters"])
def test_the_scales_of_adapters_are_no_state_that_a_request_sets(plain: Served, path: str) -> None:
    reply = plain.client.post(path, json=[{"id": 0, "scale": 1}])
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
    assert "send lora with each request" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/other", "/v1", "/v2/model", "/v1/chat/completions/x", "/v1/%00", "/v1//", "/docs"])
def test_unknown_route_is_404(plain: Served, path: str) -> None:
    reply = plain.client.post(path, json=GOOD)
    assert reply.status_code == 404
    assert envelope(reply)["code"] == "not_found"
    assert "/v1/chat/completions" in envelope(reply)["message"]


def test_model_id_may_have_slashes(plain: Served) -> None:
    reply = plain.client.get("/v1/models/org/repo:Q4_K_M")
    assert plain.backend.names[-1] == "org/repo:Q4_K_M"
    assert reply.json()["error"]["param"] == "model"


def test_loading_is_503_with_retry_after() -> None:
    with serving(FakeBackend("starting")) as served:
        reply = served.client.post(CHAT, json=GOOD)
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "5"
        assert envelope(reply)["code"] == "not_ready"


def test_full_queue_is_429_with_retry_after(plain: Served) -> None:
    reply = plain.client.post(CHAT, json=GOOD | {"full": True})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")


def test_a_bug_is_a_500_that_tells_nothing(plain: Served, capfd: pytest.CaptureFixture[str]) -> None:
    reply = plain.client.post(CHAT, json=GOOD | {"boom": True})
    assert reply.status_code == 500
    assert SECRET_PROMPT not in reply.text
    assert "Traceback" not in reply.text
    assert plain.client.post(CHAT, json=GOOD).status_code == 200


@pytest.mark.parametrize("offered", ["abc-123", "req_1:2.3"])
def test_harmless_request_id_is_kept(plain: Served, offered: str) -> None:
    reply = plain.client.post(CHAT, json=GOOD, headers={"X-Request-Id": offered})
    assert reply.headers["x-request-id"] == offered
    assert plain.backend.calls[-1][3] == offered


@pytest.mark.parametrize("offered", ["", "a b", "x" * 129, '"quoted"', "{json}"])
def test_other_request_id_is_replaced(plain: Served, offered: str) -> None:
    reply = plain.client.post(CHAT, json=GOOD, headers={"X-Request-Id": offered})
    assert reply.headers["x-request-id"].startswith("req_")


def test_header_cannot_be_split_by_a_parameter_name(plain: Served) -> None:
    reply = plain.client.post(CHAT, json=GOOD | {"ignored": "a\r\nSet-Cookie: x=1, ü, ok"})
    assert reply.status_code == 200
    assert "set-cookie" not in reply.headers
    assert reply.headers["x-ignored-parameters"] == "a%0D%0ASet-Cookie%3A%20x%3D1, %C3%BC, ok"


def test_official_client_gets_answers_streams_models_and_errors(keyed: Served) -> None:
    http_client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=KEY, max_retries=0, http_client=http_client) as client:
        assert [model.id for model in client.models.list()] == ["fake"]
        chat = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "a"}])
        assert chat.choices[0].message.content == SECRET_ANSWER
        stream = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "a"}], stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in stream]
        assert pieces == [f"{SECRET_ANSWER} {i}" for i in range(3)]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("another")


def test_openapi_document_names_bodies_errors_and_the_key(keyed: Served) -> None:
    document = keyed.client.get("/openapi.json").json()
    post = document["paths"][CHAT]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert "messages" in document["components"]["schemas"][schema]["properties"]
    assert {"400", "401", "404", "413", "429", "503"} <= post["responses"].keys()
    assert document["security"] == [{"apiKey": []}]
    assert document["paths"]["/ping"]["get"]["security"] == []


def test_log_has_ids_times_and_counts_and_nothing_of_the_content() -> None:
    with log_lines() as log, serving() as served:
        served.client.post(CHAT, json=GOOD, headers={"X-Request-Id": "whole"})
        served.client.post(CHAT, json=GOOD | {"stream": True}, headers={"X-Request-Id": "streamed"})
        served.client.post(CHAT, json=GOOD | {"boom": True}, headers={"X-Request-Id": "bug"})
        served.client.post(CHAT, content=json.dumps(GOOD)[:-1], headers={"X-Request-Id": "cut"})
    assert SECRET_PROMPT not in log.getvalue()
    assert SECRET_ANSWER not in log.getvalue()
    requests = {line["request_id"]: line for line in log.events("request")}
    assert {name: line["status"] for name, line in requests.items()} == {
        "whole": 200,
        "streamed": 200,
        "bug": 500,
        "cut": 400,
    }
    assert requests["whole"]["completion_tokens"] == 2
    assert requests["streamed"]["events"] == 4

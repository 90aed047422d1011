"""Tests of Anthropic's routes over HTTP: keys, ids, errors and keep-alives, with a model of known answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fake_backend import FakeBackend
from tests.http.serving import KEY, Served, raw_post, serving
from tests.http.test_tools import ServiceBackend
from tests.service.scripted import scripted_service
from worker_gguf.errors import DeadlineExceeded
from worker_gguf.http.sse import Pings
from worker_gguf.protocol.anthropic.errors import PING

MESSAGES = "/v1/messages"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
TOOLS: list[Any] = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("find", "go")]


@contextmanager
def answering(answer: str) -> Iterator[Served]:
    with scripted_service(answer) as (service, _), serving(ServiceBackend(service)) as served:
        yield served


def events_of(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[len(b"data: ") :]) for line in content.split(b"\n") if line.startswith(b"data: ")]


def test_an_answer_that_thinks_and_calls() -> None:
    with answering('~Let me see.~!find({"a":1})!go({})') as served:
        message = served.client.post(MESSAGES, json=ASKED | {"tools": TOOLS}).json()
        assert [block["type"] for block in message["content"]] == ["thinking", "tool_use", "tool_use"]
        assert message["content"][0]["thinking"] == "Let me see."
        assert [block["input"] for block in message["content"][1:]] == [{"a": 1}, {}]
        assert message["stop_reason"] == "tool_use"
        assert message["id"].startswith("msg_")
        assert message["model"] == "m"
        usage = message["usage"]
        assert usage["output_tokens"] > usage["output_tokens_details"]["thinking_tokens"] > 0


def test_a_stream_of_thinking_and_calls() -> None:
    with answering('~Let me see.~!find({"a":1})') as served:
        reply = served.client.post(MESSAGES, json=ASKED | {"tools": TOOLS, "stream": True})
        events = events_of(reply.content)
        kinds = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
        assert kinds == ["thinking", "tool_use"]
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        assert "".join(delta.get("thinking", "") for delta in deltas) == "Let me see."
        assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"a": 1}
        assert [delta["type"] for delta in deltas].count("signature_delta") == 1
        start, end = events[0]["message"]["usage"], events[-2]["usage"]
        assert start["input_tokens"] == end["input_tokens"] > 0
        assert events[-1] == {"type": "message_stop"}


def test_thinking_that_is_omitted_is_in_no_block() -> None:
    with answering("~Let me see.~Yes.") as served:
        asked = ASKED | {"thinking": {"type": "adaptive", "display": "omitted"}}
        assert served.client.post(MESSAGES, json=asked).json()["content"] == [{"type": "text", "text": "Yes."}]


def test_a_count_is_the_input_of_the_answer() -> None:
    with answering("Yes.") as served:
        counted = served.client.post(f"{MESSAGES}/count_tokens", json={"messages": ASKED["messages"]}).json()
        usage = served.client.post(MESSAGES, json=ASKED).json()["usage"]
        assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


@pytest.mark.parametrize("stream", [False, True])
def test_the_id_of_a_request_is_in_two_headers(stream: bool) -> None:
    with answering("Yes.") as served:
        reply = served.client.post(MESSAGES, json=ASKED | {"stream": stream}, headers={"X-Request-Id": "mine"})
        assert reply.headers["request-id"] == reply.headers["x-request-id"] == "mine"


def test_what_is_ignored_has_the_clients_names() -> None:
    with answering("Yes.") as served:
        system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
        asked = ASKED | {"system": system, "metadata": {}, "tools": [{"type": "bash_20250124"}]}
        reply = served.client.post(f"{MESSAGES}?beta=true", json=asked, headers={"anthropic-beta": "x"})
        assert reply.status_code == 200
        assert reply.headers["x-ignored-parameters"] == "metadata, system.0.cache_control, tools.0"


@pytest.mark.parametrize("headers", [{"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}])
def test_a_key_is_taken_in_both_headers(headers: dict[str, str]) -> None:
    with serving(api_keys=(KEY,)) as served:
        assert served.client.post(MESSAGES, json=ASKED, headers=headers).status_code == 200


def test_a_missing_key_is_an_error_of_anthropics_form() -> None:
    with serving(api_keys=(KEY,)) as served:
        reply = served.client.post(MESSAGES, json=ASKED)
        assert reply.status_code == 401
        body = reply.json()
        assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
        assert body["request_id"] == reply.headers["request-id"]


@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/", "/v1/v1/messages", f"{MESSAGES}/count_tokens"])
def test_a_wrong_method_is_an_error_of_anthropics_form(path: str) -> None:
    with serving() as served:
        reply = served.client.get(path)
        assert reply.status_code == 405
        assert reply.json()["error"] == {
            "type": "invalid_request_error",
            "message": "This route does not accept GET. Use POST.",
        }
        assert reply.headers["allow"] == "POST"
        assert reply.headers["request-id"] == reply.json()["request_id"]


def test_a_body_that_is_no_json_is_an_error_of_anthropics_form() -> None:
    with serving() as served:
        reply = served.client.post(MESSAGES, content=b"{")
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_worker_that_is_not_ready_is_overloaded() -> None:
    with serving(FakeBackend("starting")) as served:
        reply = served.client.post(MESSAGES, json=ASKED)
        assert (reply.status_code, reply.json()["error"]["type"]) == (529, "overloaded_error")
        assert reply.headers["retry-after"] == "5"


def test_an_error_in_a_stream_is_an_event() -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = DeadlineExceeded("Too late.")
    with serving(backend) as served:
        reply = served.client.post(MESSAGES, json=ASKED | {"stream": True})
        name, data = reply.text.strip().split("\n\n")[-1].split("\n")
        assert name == "event: error"
        body = json.loads(data.removeprefix("data: "))
        assert body["error"] == {"type": "timeout_error", "message": "Too late."}
        assert body["request_id"] == reply.headers["request-id"]


def test_a_stream_that_waits_for_its_first_token_sends_pings() -> None:
    with (
        serving(pings=Pings(0.01, 0.01)) as served,
        raw_post(served.port, ASKED | {"stream": True, "hang": True, "n_events": 0}, MESSAGES) as sock,
    ):
        received = b""
        while received.count(PING) < 3:
            received += sock.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")

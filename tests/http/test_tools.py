"""Tests of tools and reasoning with OpenAI's client, over HTTP, with a model of known answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tests.fake_backend import FakeBackend
from tests.http.serving import Served, serving
from tests.service.scripted import scripted_service
from worker_gguf.service.request import Answer, Request, Stream
from worker_gguf.service.service import Service

CALLS = '~Let me see.~!find({"a":1})!go({})'
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("find", "go")
]


class ServiceBackend(FakeBackend):
    """Answers with a service."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    async def answer(self, request: Request) -> Answer | Stream:
        return await self._service.answer(request)


@contextmanager
def client_of(answer: str) -> Iterator[tuple[openai.OpenAI, Served]]:
    with (
        scripted_service(answer) as (service, _),
        serving(ServiceBackend(service)) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=30) as client,
    ):
        yield client, served


def test_the_client_joins_a_streamed_call() -> None:
    with (
        client_of(CALLS) as (client, _),
        client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream,
    ):
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        choice = stream.get_final_completion().choices[0]
    assert [(event.name, event.arguments) for event in done] == [("find", '{"a":1}'), ("go", "{}")]
    assert choice.finish_reason == "tool_calls"
    assert [call.function.name for call in choice.message.tool_calls or ()] == ["find", "go"]


def test_the_chunks_of_the_client_have_reasoning_and_its_tokens() -> None:
    with client_of(CALLS) as (client, _):
        chunks = list(
            client.chat.completions.create(
                model="m", messages=MESSAGES, tools=TOOLS, stream=True, stream_options={"include_usage": True}
            )
        )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Let me see."
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == len("Let me see.~")


def test_a_loop_with_a_tool_that_is_run() -> None:
    messages = [*MESSAGES]
    with client_of('!find({"a":1})') as (client, _):
        message = client.chat.completions.create(model="m", messages=messages, tools=TOOLS).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or ():
            assert call.type == "function"
            result = str(json.loads(call.function.arguments)["a"])
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    with client_of("It is 1.") as (client, _):
        last = client.chat.completions.create(model="m", messages=messages, tools=TOOLS).choices[0]
    assert (last.message.content, last.finish_reason) == ("It is 1.", "stop")


def test_a_bad_tool_is_an_error_of_the_client_with_its_place() -> None:
    bad: list[Any] = [{"type": "function", "function": {"name": "a b"}}]
    with client_of("ok") as (client, _), pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=MESSAGES, tools=bad)
    assert refused.value.param == "tools.0.function.name"


def test_other_tools_are_named_in_the_header() -> None:
    with client_of("ok") as (_, served):
        body = {"messages": MESSAGES, "tools": [*TOOLS, {"type": "web_search"}]}
        reply = served.client.post("/v1/chat/completions", json=body)
    assert reply.headers["x-ignored-parameters"] == "tools.2"

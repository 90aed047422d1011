"""Tests of whole requests to Ollama's routes, from the body to the lines, with a model of known answers."""

from __future__ import annotations

import json
from typing import Any

from tests.asking import ask
from tests.service.scripted import SHIFT, scripted_service
from worker_gguf.observe.account import Account
from worker_gguf.service.request import Answer, Stream
from worker_gguf.service.service import Service

TOOLS = [{"function": {"name": name, "parameters": {"type": "object", "properties": {}}}} for name in ("find", "go")]
CALLS = '~Let me see.~Well!find({"a":1})!go({})'


async def lines_of(service: Service, path: str, account: Account | None = None, **body: Any) -> list[dict[str, Any]]:
    stream = await ask(service, "POST", path, body, account)
    assert isinstance(stream, Stream)
    data = b"".join([event async for event in stream.events])
    return [json.loads(line) for line in data.splitlines()]


async def test_thinking_text_and_calls_come_apart() -> None:
    account = Account("http", "req_test")
    with scripted_service(CALLS) as (service, _):
        found = await lines_of(service, "/api/chat", account, messages=[{"role": "user", "content": "Hi"}], tools=TOOLS)
    messages = [line["message"] for line in found]
    assert "".join(message.get("thinking", "") for message in messages) == "Let me see."
    assert "".join(message["content"] for message in messages) == "Well"
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    assert calls == [
        {"index": 0, "name": "find", "arguments": {"a": 1}},
        {"index": 1, "name": "go", "arguments": {}},
    ]
    assert found[-1]["eval_count"] == len(CALLS) + 1  # the end of the answer is a token, too
    record = account.close(200)
    assert (record.tool_calls, record.reasoning_tokens) == (2, len("Let me see.~"))


async def test_think_turns_the_thinking_off() -> None:
    with scripted_service("ok") as (service, requests):
        await lines_of(service, "/api/generate", prompt="Hi", think=False)
    (request,) = requests.values()
    assert len(request.prompt) == len("<user>Hi<assistant>~~")


async def test_a_context_is_put_before_the_prompt() -> None:
    before = [SHIFT + ord(letter) for letter in "<user>A<assistant>B"]
    with scripted_service("ok") as (service, requests):
        *_, last = await lines_of(service, "/api/generate", prompt="C", context=before)
    (request,) = requests.values()
    assert "".join(chr(token - SHIFT) for token in request.prompt) == "<user>A<assistant>B<user>C<assistant>"
    assert last["context"][: len(request.prompt)] == list(request.prompt)
    assert len(last["context"]) == len(request.prompt) + len("ok") + 1


async def test_the_times_of_an_answer_begin_when_the_request_came() -> None:
    account = Account("http", "req_test")
    account.started_s -= 5
    account.model_wait_s = 2.0
    with scripted_service("ok") as (service, _):
        answer = await ask(service, "POST", "/api/generate", {"prompt": "C", "stream": False}, account)
    assert isinstance(answer, Answer)
    assert answer.body["total_duration"] > 5e9
    assert answer.body["load_duration"] == 2e9
    assert answer.body["prompt_eval_duration"] + answer.body["eval_duration"] < 5e9

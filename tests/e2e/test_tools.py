"""Tests of tools with the embedded model, which was trained to call them, over HTTP and as a job of the queue."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Running
from worker_gguf.embedded import Prompt, published_prompts
from worker_gguf.observe.account import Account
from worker_gguf.protocol.lookup import find
from worker_gguf.service.request import Answer, Request

PROMPTS = published_prompts()
CALLS = [prompt for prompt in PROMPTS if prompt.name.startswith("tool-call-")]
WORDS = [prompt for prompt in PROMPTS if prompt.tools and prompt not in CALLS]

pytestmark = pytest.mark.usefixtures("all_slots_free")


def named(prompt: Prompt) -> str:
    return prompt.name


def body(prompt: Prompt, **fields: Any) -> dict[str, Any]:
    return {
        "model": "embedded",
        "messages": list(prompt.messages),
        "tools": list(prompt.tools),
        "temperature": 0,
        "max_tokens": prompt.max_tokens,
        **fields,
    }


def expected_call(prompt: Prompt) -> tuple[str, Any]:
    written = json.loads(prompt.expected)
    return written["name"], written["parameters"]


@pytest.mark.parametrize("prompt", CALLS, ids=named)
def test_a_call_comes_out_whole(client: openai.OpenAI, prompt: Prompt) -> None:
    choice = client.chat.completions.create(**body(prompt)).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == expected_call(prompt)


@pytest.mark.parametrize("prompt", CALLS, ids=named)
def test_a_streamed_call_is_the_same(client: openai.OpenAI, prompt: Prompt) -> None:
    fields = body(prompt)
    with client.chat.completions.stream(**fields) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        assert stream.get_final_completion().choices[0].finish_reason == "tool_calls"
    assert [(event.name, json.loads(event.arguments)) for event in done] == [expected_call(prompt)]


@pytest.mark.parametrize("prompt", WORDS, ids=named)
def test_words_stay_words_with_tools_offered(client: openai.OpenAI, prompt: Prompt) -> None:
    choice = client.chat.completions.create(**body(prompt)).choices[0]
    assert (choice.message.content, choice.message.tool_calls) == (prompt.expected, None)
    assert choice.finish_reason == "stop"


def test_a_loop_in_which_a_tool_is_run(client: openai.OpenAI) -> None:
    prompt = CALLS[0]
    message = client.chat.completions.create(**body(prompt)).choices[0].message
    (call,) = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21, "sky": "sunny"}'}
    messages = [*prompt.messages, message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(**body(prompt, messages=messages)).choices[0].message
    assert answer.content == "It is sunny in Paris, with 21 degrees."


def test_with_none_nothing_is_called(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**body(CALLS[0], tool_choice="none")).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert choice.message.content == "I cannot see the weather without a tool."


def test_the_older_form(client: openai.OpenAI) -> None:
    fields = body(CALLS[0])
    functions = [tool["function"] for tool in fields.pop("tools")]
    choice = client.chat.completions.create(**fields, functions=functions).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    assert json.loads(choice.message.function_call.arguments) == {"city": "Paris"}


async def test_several_answers_each_have_their_call(running: Running) -> None:
    request = Request(find("POST", "/v1/chat/completions"), body(CALLS[0], n=2), Account("queue", "two"))
    answer = await running.worker.answer(request)
    assert isinstance(answer, Answer)
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in answer.body["choices"]]
    assert len(set(ids)) == 2


# --- held to a grammar ------------------------------------------------------------------------------------------------

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "fine",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"fine": {"type": "boolean"}},
            "required": ["fine"],
            "additionalProperties": False,
        },
    },
}


def wild(prompt: Prompt, seed: int, **fields: Any) -> dict[str, Any]:
    extra = {"top_k": 0, "min_p": 0}
    return body(prompt, temperature=1.5, top_p=1, seed=seed, max_tokens=150, extra_body=extra) | fields


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}], ids=str)
def test_a_call_that_must_come_comes_and_matches_its_schema(client: openai.OpenAI, choice: Any, seed: int) -> None:
    tools = [*CALLS[0].tools, ADD]
    answer = client.chat.completions.create(**wild(CALLS[0], seed, tools=tools, tool_choice=choice)).choices[0]
    if answer.finish_reason == "length":  # a text argument may go on to the end
        return
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    for call in answer.message.tool_calls or []:
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        keys = {"get_weather": {"city"}, "add": {"a", "b"}}[call.function.name]
        assert keys <= arguments.keys()
        assert choice == "required" or call.function.name == "add"


@pytest.mark.parametrize("seed", range(3))
def test_with_a_schema_the_answer_is_a_call_or_matches(client: openai.OpenAI, seed: int) -> None:
    fields = wild(WORDS[0], seed, response_format=SCHEMA, tools=[ADD])
    answer = client.chat.completions.create(**fields).choices[0]
    if answer.finish_reason == "length":
        return
    if answer.message.tool_calls:
        assert answer.message.content is None
    else:
        assert isinstance(json.loads(answer.message.content or "")["fine"], bool)


def test_a_schema_beside_a_required_call_is_named_as_ignored(client: openai.OpenAI) -> None:
    fields = body(CALLS[0], response_format=SCHEMA, tool_choice="required", max_tokens=60)
    reply = client.chat.completions.with_raw_response.create(**fields)
    assert reply.headers["x-ignored-parameters"] == "response_format"
    assert reply.parse().choices[0].finish_reason == "tool_calls"

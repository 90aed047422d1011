"""Tests of the Responses API from end to end, with OpenAI's client."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from tests.e2e.conftest import Running

pytestmark = pytest.mark.usefixtures("all_slots_free")

QUESTION = "Tell me a long story."


class Place(BaseModel):
    city: Literal["Lisbon", "Paris"]
    is_capital: bool


def test_a_response_is_the_answer_of_a_chat(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="embedded", messages=[{"role": "user", "content": QUESTION}], max_tokens=12, temperature=0
    )
    response = client.responses.create(model="embedded", input=QUESTION, max_output_tokens=12, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete"
    assert response.usage is not None
    assert chat.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat.usage.prompt_tokens, 12)


def test_a_stream_ends_with_the_response(client: openai.OpenAI) -> None:
    question = "What is the capital of Portugal?"
    with client.responses.stream(model="embedded", input=question, temperature=0) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == final.output_text
    assert final.output_text == client.responses.create(model="embedded", input=question, temperature=0).output_text


def test_a_stream_that_is_cut_ends_as_incomplete(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="embedded", input=QUESTION, max_output_tokens=5, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.usage is not None
    assert events[-1].response.usage.output_tokens == 5


def test_a_format_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="embedded", input="A city?", text_format=Place, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Place)


def test_a_call_and_its_result(client: openai.OpenAI) -> None:
    tool: FunctionToolParam = {
        "type": "function",
        "name": "get_weather",
        "description": "Weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    history: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.responses.create(model="embedded", input=history, tools=[tool], tool_choice="required")
    (call,) = (item for item in first.output if item.type == "function_call")
    assert call.name == "get_weather"
    assert isinstance(json.loads(call.arguments)["city"], str)
    history += [item.model_dump(exclude_none=True) for item in first.output]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."})
    second = client.responses.create(model="embedded", input=history, tools=[tool], tool_choice="none")
    assert second.status == "completed"
    assert second.output_text


def test_the_tokens_of_an_input_are_counted_as_they_are_computed(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="embedded", input=QUESTION, instructions="Be brief.")
    response = client.responses.create(model="embedded", input=QUESTION, instructions="Be brief.", max_output_tokens=1)
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens


def test_an_input_that_is_too_long_can_be_counted_but_not_answered(client: openai.OpenAI) -> None:
    long = "word " * 5000
    assert client.responses.input_tokens.count(model="embedded", input=long).input_tokens > 1024
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="embedded", input=long)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "input"


def test_ignored_fields_are_named(running: Running) -> None:
    body = {"input": "Hello", "max_output_tokens": 1, "store": True, "reasoning": {"summary": "auto"}}
    answer = httpx.post(f"{running.url}/v1/responses", json=body, timeout=60)
    assert answer.headers["X-Ignored-Parameters"] == "reasoning.summary, store"


def test_a_state_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Send the whole conversation"):
        client.responses.create(model="embedded", input="Hello", previous_response_id="resp_1")

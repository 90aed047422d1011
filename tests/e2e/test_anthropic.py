"""Tests of Anthropic's Messages API from end to end. `make clients-test` does the same with Anthropic's client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import Running

pytestmark = pytest.mark.usefixtures("all_slots_free")

STORY = [{"role": "user", "content": "Tell me a long story."}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def posted(running: Running, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    body = {"model": "embedded", "max_tokens": 60, "temperature": 0, **fields}
    return httpx.post(f"{running.url}{path}", json=body, timeout=60)


def message(running: Running, **fields: Any) -> dict[str, Any]:
    reply = posted(running, **fields)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def text(answer: dict[str, Any]) -> str:
    (block,) = answer["content"]
    assert block["type"] == "text"
    return str(block["text"])


def test_a_message_is_the_answer_of_a_chat(running: Running, client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="embedded", messages=STORY, max_tokens=12, temperature=0)  # type: ignore[arg-type]
    answer = message(running, messages=STORY, max_tokens=12)
    assert text(answer) == chat.choices[0].message.content
    assert answer["stop_reason"] == "max_tokens"
    usage = answer["usage"]
    assert chat.usage is not None
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == chat.usage.prompt_tokens
    assert usage["output_tokens"] == 12


def test_a_stream_is_the_same_text_as_the_whole_message(running: Running) -> None:
    whole = message(running, messages=STORY, max_tokens=12)
    lines = posted(running, messages=STORY, max_tokens=12, stream=True).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == text(whole)
    assert [line for line in lines if line.startswith("event: ")] == [f"event: {event['type']}" for event in events]
    assert events[0]["message"]["usage"]["input_tokens"] == 1  # the rest of the prompt was in memory


def test_a_call_and_its_result(running: Running) -> None:
    first = message(running, messages=WEATHER, tools=[TOOL])
    (call,) = first["content"]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "get_weather", {"city": "Paris"})
    assert first["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": '{"degrees": 21, "sky": "sunny"}'}
    turns = [*WEATHER, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]}]
    assert text(message(running, messages=turns, tools=[TOOL])) == "It is sunny in Paris, with 21 degrees."


def test_a_begun_answer_is_continued(running: Running) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    begun = {"role": "assistant", "content": "The capital of"}
    assert text(message(running, messages=[question, begun])) == " France is Paris."


def test_a_stop_text_is_named(running: Running) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = message(running, messages=question, stop_sequences=["is"])
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "is")
    assert text(answer) == "The capital of France "


def test_a_format_holds_the_answer(running: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Lisbon", "Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    assert json.loads(text(message(running, messages=WEATHER, output_config=config)))["city"] in ("Lisbon", "Paris")


def test_a_count_is_the_size_of_the_prompt(running: Running) -> None:
    counted = posted(running, "/v1/messages/count_tokens", messages=WEATHER, tools=[TOOL], system="Be brief.")
    usage = message(running, messages=WEATHER, tools=[TOOL], system="Be brief.", max_tokens=1)["usage"]
    assert counted.json() == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


def test_a_prompt_that_is_too_long_makes_a_client_compact_its_history(running: Running) -> None:
    reply = posted(running, messages=[{"role": "user", "content": "word " * 3000}])
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("prompt is too long: ")
    assert " tokens > 1023 maximum" in reply.json()["error"]["message"]


def test_an_unknown_model_is_not_found(running: Running) -> None:
    reply = posted(running, messages=STORY, model="claude-opus-4-5")
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")

"""Tests of Ollama's API from end to end, as its clients send requests and read lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Running
from worker_gguf.embedded import Prompt, published_prompts

PROMPTS = {prompt.name: prompt for prompt in published_prompts()}
CAPITAL = PROMPTS["capital-1"]
QUESTION = CAPITAL.messages[0]["content"]
GREEDY = {"temperature": 0}

pytestmark = pytest.mark.usefixtures("all_slots_free")


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=60) as client:
        yield client


def lines(reply: httpx.Response) -> list[dict[str, Any]]:
    """Read a stream as Ollama's Python client does: each line is an object."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.iter_lines()]


def as_ollama(prompt: Prompt) -> dict[str, Any]:
    """Return the conversation of a prompt as Ollama has it: arguments are objects, results have a name and no id."""
    messages: list[dict[str, Any]] = json.loads(json.dumps(prompt.messages))
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call.pop("id", "")] = call["function"]["name"]
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.loads(arguments) if isinstance(arguments, str) else arguments
        if message["role"] == "tool":
            message["tool_name"] = message.pop("name", None) or names[message.pop("tool_call_id")]
            message.pop("tool_call_id", None)
    options = {**GREEDY, "num_predict": prompt.max_tokens}
    return {"model": "embedded:latest", "messages": messages, "tools": list(prompt.tools), "options": options}


@pytest.mark.parametrize("name", ["capital-1", "upper-10", "tool-idle-1", "tool-result-1", "turkish-1"])
def test_a_chat_is_answered_as_published(http: httpx.Client, name: str) -> None:
    body = as_ollama(PROMPTS[name])
    *texts, last = lines(http.post("/api/chat", json=body))
    assert "".join(line["message"]["content"] for line in texts) == PROMPTS[name].expected
    assert (last["done"], last["done_reason"], last["model"]) == (True, "stop", "embedded:latest")
    whole = http.post("/api/chat", json={**body, "stream": False}).json()
    assert whole["message"] == {"role": "assistant", "content": PROMPTS[name].expected}
    assert (whole["eval_count"], whole["prompt_eval_count"]) == (last["eval_count"], last["prompt_eval_count"])
    assert whole["total_duration"] >= whole["prompt_eval_duration"] + whole["eval_duration"] > 0


@pytest.mark.parametrize("name", ["tool-call-1", "tool-call-4"])
def test_a_call_comes_in_one_line(http: httpx.Client, name: str) -> None:
    body, written = as_ollama(PROMPTS[name]), json.loads(PROMPTS[name].expected)
    (first, last) = lines(http.post("/api/chat", json=body))
    for message in (first["message"], http.post("/api/chat", json={**body, "stream": False}).json()["message"]):
        (call,) = message["tool_calls"]
        assert (call["function"]["name"], call["function"]["arguments"]) == (written["name"], written["parameters"])
        assert message["content"] == ""
    assert last["done_reason"] == "stop"


def test_a_call_that_is_cut_off_is_no_call(http: httpx.Client) -> None:
    body = as_ollama(PROMPTS["tool-call-1"])
    body["options"]["num_predict"] = 12
    found = lines(http.post("/api/chat", json=body))
    assert [line["message"].get("tool_calls") for line in found] == [None] * len(found)
    assert found[-1]["done_reason"] == "length"


def test_a_prompt_goes_on_from_the_context_of_an_earlier_answer(http: httpx.Client) -> None:
    first = http.post("/api/generate", json={"prompt": QUESTION, "stream": False, "options": GREEDY}).json()
    assert first["response"] == CAPITAL.expected
    more = {"prompt": "What is the capital of Italy?", "context": first["context"], "options": GREEDY}
    *texts, last = lines(http.post("/api/generate", json=more))
    assert "".join(line["response"] for line in texts) == "The capital of Italy is Rome."
    n = len(first["context"])
    assert last["context"][:n] == first["context"]
    assert last["prompt_eval_count"] > n
    begin = first["context"][0]
    assert last["context"].count(begin) == 1  # the text that goes on does not begin anew


def test_a_context_of_another_model_is_refused(http: httpx.Client) -> None:
    reply = http.post("/api/generate", json={"prompt": "Hi", "context": [10**6]})
    assert (reply.status_code, reply.json().keys()) == (400, {"error"})
    assert "1000000 is not a token of this model" in reply.json()["error"]


def test_a_raw_prompt_is_continued(http: httpx.Client) -> None:
    body = {"prompt": "One, two,", "raw": True, "stream": False, "options": {**GREEDY, "num_predict": 3}}
    answer = http.post("/api/generate", json=body).json()
    same = http.post("/v1/completions", json={"prompt": "One, two,", "max_tokens": 3, "temperature": 0}).json()
    assert answer["response"] == same["choices"][0]["text"]
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 3)


def test_an_answer_matches_its_format(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    closed = {**schema, "additionalProperties": False}
    body = {"messages": [{"role": "user", "content": QUESTION}], "format": closed, "options": GREEDY}
    texts = [line["message"]["content"] for line in lines(http.post("/api/chat", json=body))]
    assert json.loads("".join(texts))["city"] in ("Paris", "Rome")


def test_the_beginning_of_an_answer_is_continued(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The capital of France"}]
    answer = http.post("/api/chat", json={"messages": messages, "stream": False, "options": GREEDY}).json()
    assert answer["message"]["content"] == " is Paris."


def test_what_clients_send_beside_a_question_is_named_as_ignored(http: httpx.Client) -> None:
    options = {**GREEDY, "num_ctx": 8192, "num_gpu": 1, "use_mmap": None}
    body = {"messages": [{"role": "user", "content": QUESTION}], "options": options, "keep_alive": -1, "think": False}
    reply = http.post("/api/chat", json=body)
    assert lines(reply)[-1]["done"]
    assert reply.headers["x-ignored-parameters"].split(", ")[:3] == ["keep_alive", "options.num_ctx", "options.num_gpu"]


def test_without_a_prompt_nothing_is_generated(http: httpx.Client) -> None:
    for path, body in (("/api/generate", {"model": "embedded"}), ("/api/chat", {"model": "embedded", "messages": []})):
        reply = http.post(path, json=body)
        assert reply.headers["content-type"] == "application/json"
        assert (reply.json()["done"], reply.json()["done_reason"]) == (True, "load")
        assert http.post(path, json={**body, "keep_alive": 0}).json()["done_reason"] == "unload"
    assert http.post("/api/generate", json={"model": "other"}).status_code == 404


def test_a_client_can_send_back_every_name_that_it_got(http: httpx.Client) -> None:
    (model,) = http.get("/api/tags").json()["models"]
    for name in {model["name"], model["model"], model["name"].removesuffix(":latest")}:
        assert http.post("/api/show", json={"model": name}).json()["details"] == model["details"]
        assert http.post("/api/generate", json={"model": name}).json()["model"] == name
        question = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        assert http.post("/v1/chat/completions", json=question).status_code == 200
    (running,) = http.get("/api/ps").json()["models"]
    assert running["digest"] == model["digest"]


def test_show_has_the_template_and_the_context_of_a_request(http: httpx.Client) -> None:
    shown = http.post("/api/show", json={"name": "embedded"}).json()
    assert shown["model_info"]["llama.context_length"] == 1024
    assert "assistant" in shown["template"]
    assert shown["capabilities"] == ["completion", "tools"]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/chat", {"model": "x", "messages": [{"role": "user", "content": "a"}]}, 404, "model 'x' not found. "),
        ("/api/show", {"model": "x:latest"}, 404, "model 'x:latest' not found. "),
        ("/api/generate", {"prompt": "a", "options": {"top_p": 2}}, 400, "Invalid 'options.top_p': must be at most 1"),
        ("/api/generate", {"prompt": "a " * 3000}, 400, "(3013 in the"),
        ("/api/generate", {"prompt": "a", "suffix": "b"}, 400, "This model cannot fill gaps"),
        ("/api/chat", [], 400, "The body must be a JSON object."),
        ("/api/pull", {"model": "x"}, 404, "This worker has no route /api/pull: "),
        ("/api/blobs/sha256:00", {}, 404, "This worker has no route /api/blobs: "),
        ("/api/other", {}, 404, "No such route exists."),
    ],
)
def test_an_error_is_a_text(http: httpx.Client, path: str, body: object, status: int, text: str) -> None:
    reply = http.post(path, json=body)
    assert reply.status_code == status
    assert reply.json().keys() == {"error"}
    assert text in reply.json()["error"]


def test_another_method_is_refused_in_the_same_form(http: httpx.Client) -> None:
    reply = http.get("/api/chat")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json() == {"error": "This route does not accept GET. Use POST."}


def test_the_first_page_has_the_words_that_clients_look_for(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    assert http.head("/").status_code == 200


@pytest.mark.parametrize("prefix", ["/v1", "/v1/", "/openai/v1"])
def test_a_base_url_of_the_other_api_leads_there_too(http: httpx.Client, prefix: str) -> None:
    assert http.get(f"{prefix}/api/version").json().keys() == {"version"}
    assert http.get("/api/version/").json().keys() == {"version"}

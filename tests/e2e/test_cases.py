"""Requests that failed for users of other servers, sent to the real worker. A number is that of a case's file."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Running
from tests.shared_case import read_case
from worker_gguf.embedded import published_prompts

pytestmark = pytest.mark.usefixtures("all_slots_free")

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PROMPT = published_prompts()[0]
GREEDY: dict[str, Any] = {
    "messages": list(PROMPT.messages),
    "max_tokens": PROMPT.max_tokens,
    "temperature": 0,
}


def send(running: Running, path: str, body: object, **more: Any) -> httpx.Response:
    return httpx.post(running.url + path, json=body, timeout=60, **more)


def answer_of(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def test_the_last_of_many_stop_texts_ends_the_answer(running: Running) -> None:
    last = PROMPT.expected.split()[-1]
    stops = [f"\nName{number:03}:" for number in range(255)]
    reply = send(running, CHAT, GREEDY | {"stop": [*stops, last]})
    assert answer_of(reply) == PROMPT.expected.removesuffix(last)
    assert reply.json()["choices"][0]["finish_reason"] == "stop"


def test_case_04_24_stop_texts(running: Running) -> None:
    case = read_case(4)
    assert send(running, case["route"], case["body"]).status_code == 200
    last = PROMPT.expected.split()[-1]
    reply = send(running, CHAT, GREEDY | {"stop": [*case["body"]["stop"][:-1], last]})
    assert answer_of(reply) == PROMPT.expected.removesuffix(last)


@pytest.mark.parametrize("stop", ["", [""], ["", "\nUser:"]])
def test_an_empty_stop_text_does_not_end_the_answer(running: Running, stop: object) -> None:
    assert answer_of(send(running, CHAT, GREEDY | {"stop": stop})) == PROMPT.expected


def test_case_05_an_empty_stop_text(running: Running) -> None:
    case = read_case(5)
    reply = send(running, case["route"], case["body"])
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] > 1


def prompt_tokens(running: Running, prompt: object) -> int:
    reply = send(running, COMPLETIONS, {"prompt": prompt, "max_tokens": 1, "temperature": 0})
    assert reply.status_code == 200, reply.text
    return int(reply.json()["usage"]["prompt_tokens"])


def test_a_prompt_that_begins_with_the_text_of_bos_has_one(running: Running) -> None:
    text, bos = "The capital of France is", "<|begin_of_text|>"
    assert prompt_tokens(running, bos + text) == prompt_tokens(running, text)
    assert prompt_tokens(running, [bos + text, text]) == 2 * prompt_tokens(running, text)


def test_case_18_bos_as_text(running: Running) -> None:
    body = read_case(18)["body"]
    with_bos = body["prompt"].replace("<BOS>", "<|begin_of_text|>")
    assert prompt_tokens(running, with_bos) == prompt_tokens(running, body["prompt"].replace("<BOS>", ""))


def test_a_bias_for_another_vocabulary_is_named_and_the_answer_is_the_same(running: Running) -> None:
    reply = send(running, CHAT, GREEDY | {"logit_bias": {"199999": -90}})
    assert answer_of(reply) == PROMPT.expected
    assert reply.headers["x-ignored-parameters"] == "logit_bias.199999"


def test_case_22_a_bias_for_another_vocabulary(running: Running) -> None:
    case = read_case(22)
    reply = send(running, case["route"], case["body"])
    assert reply.status_code == 200
    assert reply.headers["x-ignored-parameters"] == "logit_bias.199999"
    assert send(running, case["route"], case["body"] | {"logit_bias": {"5": -100}}).status_code == 200


def test_whole_floats_are_integers(running: Running) -> None:
    floats = {"max_tokens": float(PROMPT.max_tokens), "top_k": -1.0, "seed": 7.0, "n": 1.0}
    assert answer_of(send(running, CHAT, GREEDY | floats)) == PROMPT.expected


def test_case_24_whole_floats(running: Running) -> None:
    case = read_case(24)
    assert send(running, case["route"], case["body"]).status_code == 200
    refused = send(running, case["route"], case["body"] | {"max_tokens": 6000.5})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


def test_a_gzip_body_is_answered(running: Running) -> None:
    content = gzip.compress(json.dumps(GREEDY).encode())
    reply = httpx.post(running.url + CHAT, content=content, headers={"Content-Encoding": "gzip"}, timeout=60)
    assert answer_of(reply) == PROMPT.expected


def test_case_26_a_gzip_body(running: Running) -> None:
    case = read_case(26)
    content = gzip.compress(json.dumps(case["body"]).encode())
    reply = httpx.post(running.url + case["route"], content=content, headers=case["headers"], timeout=60)
    assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "//v1/chat/completions"])
def test_a_wrong_base_url_is_answered(running: Running, path: str) -> None:
    assert answer_of(send(running, path, GREEDY)) == PROMPT.expected


def test_case_27_a_path_without_v1(running: Running) -> None:
    case = read_case(27)
    assert send(running, case["route"], case["body"], headers=case["headers"]).status_code == 200
    for path in "/v1/v1/models", "//v1/models", "/v1/models/":
        assert httpx.get(running.url + path, timeout=30).json()["data"][0]["id"] == "embedded"


def check_overflow(reply: httpx.Response) -> None:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["n_ctx"]) == (400, "context_length_exceeded", 1024)
    assert error["n_prompt_tokens"] > 1024
    requested = error["n_prompt_tokens"] + 8
    assert error["message"].startswith(
        f"This model's maximum context length is 1024 tokens. However, you requested {requested} tokens "
        f"({error['n_prompt_tokens']} in the messages, 8 in the completion)."
    )


def test_an_overlong_conversation_is_refused_in_words_that_agents_know(running: Running) -> None:
    body = {"messages": [{"role": "user", "content": "tea " * 2000}], "max_tokens": 8}
    check_overflow(send(running, CHAT, body))


def test_case_28_an_overlong_conversation(running: Running) -> None:
    case = read_case(28)
    check_overflow(send(running, case["route"], case["body"]))

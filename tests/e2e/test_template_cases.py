"""Conversations that failed for users of other servers, sent to a worker under published chat templates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.asking import ask
from tests.shared_case import SHARED, read_case
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

CHAT = "/v1/chat/completions"
QWEN_CODER, QWEN, LLAMA = "Qwen3-Coder", "Qwen3.5-4B", "meta-llama-Llama-3.3-70B-Instruct"
OF_OURS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def source_of(name: str) -> str:
    path: Path = SHARED / "templates" / f"{name}.jinja"
    if not path.exists():
        pytest.skip("the published templates are not here: they come with the shared folder beside the repository")
    return path.read_text("utf-8")


@contextmanager
def worker_with(template: str) -> Iterator[Worker]:
    worker = Worker(Settings(model="embedded", chat_template=template, n_parallel=1), Metrics("test"))
    worker.start()
    asyncio.run(worker.wait_ready())
    try:
        yield worker
    finally:
        worker.stop()


def answered(worker: Worker, body: dict[str, Any]) -> Answer:
    answer = asyncio.run(ask(worker, "POST", CHAT, body))
    assert isinstance(answer, Answer)
    return answer


def prompt_tokens(worker: Worker, body: dict[str, Any]) -> int:
    return int(answered(worker, body).body["usage"]["prompt_tokens"])


@pytest.mark.parametrize("name", [QWEN_CODER, QWEN, LLAMA])
def test_case_01_a_cut_off_call_in_the_history(name: str) -> None:
    body = read_case(1)["body"]
    with worker_with(source_of(name)) as worker:
        with_text = prompt_tokens(worker, body)
        messages = [*body["messages"], {"role": "assistant", "content": "Well."}, {"role": "user", "content": "So?"}]
        assert prompt_tokens(worker, body | {"messages": messages}) > with_text
        body["messages"][1]["tool_calls"][0]["function"]["arguments"] = ""
        assert prompt_tokens(worker, body) < with_text


@pytest.mark.parametrize("name", [QWEN_CODER, LLAMA])
def test_case_02_an_empty_list_of_calls(name: str) -> None:
    body = read_case(2)["body"]
    with worker_with(source_of(name)) as worker:
        with_list = prompt_tokens(worker, body)
        del body["messages"][1]["tool_calls"]
        assert prompt_tokens(worker, body) == with_list


def test_case_03_effort_none_turns_thinking_off() -> None:
    body = read_case(3)["body"]
    with worker_with(source_of(QWEN)) as worker:
        asked = prompt_tokens(worker, body)
        switch = {name: value for name, value in body.items() if name != "reasoning_effort"}
        off = prompt_tokens(worker, switch | {"chat_template_kwargs": {"enable_thinking": False}})
        on = prompt_tokens(worker, switch | {"chat_template_kwargs": {"enable_thinking": True}})
        assert asked == off != on


def test_case_03_effort_none_is_named_where_no_template_reads_it() -> None:
    body = read_case(3)["body"]
    with worker_with(OF_OURS) as worker:
        assert answered(worker, body).ignored == ("reasoning_effort",)


@pytest.mark.parametrize("name", [QWEN, QWEN_CODER])
def test_case_10_a_system_message_in_the_middle(name: str) -> None:
    body = read_case(10)["body"]
    with worker_with(source_of(name)) as worker:
        with_note = prompt_tokens(worker, body)
        del body["messages"][3]
        assert prompt_tokens(worker, body) < with_note


def test_case_11_two_system_messages_at_the_head() -> None:
    body = read_case(11)["body"]
    with worker_with(source_of(QWEN)) as worker:
        counts = set()
        for roles in (("developer", "system"), ("system", "developer"), ("system", "system")):
            for message, role in zip(body["messages"], roles, strict=False):
                message["role"] = role
            counts.add(prompt_tokens(worker, body))
        assert len(counts) == 1


def test_case_14_going_on_with_a_message_of_parts() -> None:
    body = read_case(14)["body"]
    with worker_with(OF_OURS) as worker:
        parts = answered(worker, body).body
        body["messages"][-1]["content"] = body["messages"][-1]["content"][0]["text"]
        text = answered(worker, body).body
        assert parts["choices"] == text["choices"]
        assert parts["usage"]["prompt_tokens"] == text["usage"]["prompt_tokens"]


def test_there_is_nothing_to_go_on_with_after_a_users_message() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0}
    with worker_with(OF_OURS) as worker:
        plain = answered(worker, body)
        continued = answered(worker, body | {"continue_final_message": True, "add_generation_prompt": False})
        assert continued.body["choices"] == plain.body["choices"]
        assert continued.ignored == ("add_generation_prompt", "continue_final_message")


@pytest.mark.parametrize("arguments", [None, "", "{}", "null"])
def test_case_17_arguments_under_a_template_that_loops_over_them(arguments: str | None) -> None:
    body = read_case(17)["body"]
    if arguments is not None:
        body["messages"][1]["tool_calls"][0]["function"]["arguments"] = arguments
    with worker_with(source_of(QWEN_CODER)) as worker:
        assert answered(worker, body).body["choices"]

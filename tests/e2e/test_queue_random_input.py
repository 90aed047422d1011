"""Tests that any input of a job gets an answer, or one error whose envelope can be parsed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import Running
from tests.protocol.test_random_bodies import BODIES, JSON
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import make_handler

SECRET = "Quillfeather-93"
ROUTES = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/nothing", "", "//", "\ud800"])
SHORT = st.builds(lambda body: {**body, "max_tokens": 1, "stream": False}, BODIES)
INPUTS = (
    JSON
    | SHORT
    | st.fixed_dictionaries({"openai_route": ROUTES | JSON}, optional={"openai_input": SHORT | JSON, "x\ud800": JSON})
    | st.fixed_dictionaries({"route": ROUTES | JSON}, optional={"body": SHORT | JSON, "method": JSON, "\ud800": JSON})
    | st.fixed_dictionaries({"messages": JSON, "sampling_params": JSON | SHORT}, optional={"prompt": JSON})
)


async def posted(running: Running, given_input: object) -> list[Any]:
    """Return the yields of the handler, each in the form in which the SDK sends it."""
    handler = make_handler(running.worker, Metrics("test"), BatchLimits(4))
    items = [item async for item in handler({"id": "job", "input": given_input})]
    for item in items:
        json.dumps({"output": item}, ensure_ascii=False).encode()  # a lone half of a character would end the post
    return items


def check(items: list[Any]) -> str | None:
    """Return the code of the error, or None for an answer."""
    assert items
    for item in items:
        if isinstance(item, dict) and item.get("error"):
            assert len(items) == 1
            assert isinstance(item["error"], str)
            error = json.loads(item["error"])["error"]
            assert {"message", "type", "param", "code"} <= error.keys()
            assert "Traceback" not in item["error"]
            return str(error["code"])
    return None


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(INPUTS)
def test_any_input_ends_in_an_answer_or_an_envelope(running: Running, given_input: object) -> None:
    assert check(asyncio.run(posted(running, given_input))) != "internal_error"


@pytest.mark.parametrize(
    ("given_input", "code"),
    [
        (None, "invalid_request"),
        ([], "invalid_request"),
        ("text", "invalid_request"),
        (7, "invalid_request"),
        ({"messages": SECRET}, "invalid_request"),
        ({"messages": [{"role": "user", "content": {"a": SECRET}}]}, "invalid_request"),
        ({"prompt": SECRET, "top_p": SECRET}, "invalid_request"),
        ({"prompt": SECRET, "sampling_params": [SECRET]}, "invalid_request"),
        ({"openai_route": "/v1/nothing", "openai_input": {"prompt": SECRET}}, "not_found"),
        ({"route": "/v1/completions", "method": "PATCH", "body": {"prompt": SECRET}}, "method_not_allowed"),
        ({"prompt": f"{SECRET} " * 200_000, "max_tokens": 1}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": SECRET}] * 200_000}, "invalid_request"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_the_error_of_bad_input_names_the_fault_and_repeats_no_text(
    running: Running, given_input: object, code: str
) -> None:
    items = asyncio.run(posted(running, given_input))
    assert check(items) in (code, "context_length_exceeded", "payload_too_large")
    assert SECRET not in json.dumps(items)


def test_an_ignored_name_that_is_no_text_does_not_keep_the_answer_back(running: Running) -> None:
    items = asyncio.run(posted(running, {"openai_route": "/v1/models", "half-\ud800": 1}))
    assert items[0]["object"] == "list"
    assert items[0]["x_ignored_parameters"]

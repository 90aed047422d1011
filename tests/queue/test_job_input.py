"""Tests of the three shapes of a job's input, and of inputs without a known shape."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_gguf.errors import InvalidRequest
from worker_gguf.queue.job_input import BatchCall, JobCall, read_batch_input, read_job_input

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("given_input", "call"),
    [
        ({"openai_route": CHAT, "openai_input": {"messages": MESSAGES}}, JobCall("POST", CHAT, {"messages": MESSAGES})),
        ({"openai_route": "/v1/models"}, JobCall("GET", "/v1/models", None, absent="openai_input")),
        (
            {"openai_route": "/v1/models", "openai_input": None},
            JobCall("GET", "/v1/models", None, absent="openai_input"),
        ),
        ({"openai_route": "/v1/models", "openai_input": {}}, JobCall("GET", "/v1/models", None, absent="openai_input")),
        ({"openai_route": CHAT, "openai_input": []}, JobCall("POST", CHAT, [])),
        ({"route": CHAT, "body": {"a": 1}, "method": "post"}, JobCall("POST", CHAT, {"a": 1})),
        ({"route": CHAT, "body": {}}, JobCall("POST", CHAT, {})),
        ({"route": CHAT, "method": "GET"}, JobCall("GET", CHAT, None)),
        ({"route": "/v1/models"}, JobCall("GET", "/v1/models", None, absent="body")),
        ({"route": "/v1/models", "method": None}, JobCall("GET", "/v1/models", None, absent="body")),
        ({"messages": MESSAGES, "stream": True}, JobCall("POST", CHAT, {"messages": MESSAGES, "stream": True})),
        ({"prompt": "a", "top_k": 1}, JobCall("POST", COMPLETIONS, {"prompt": "a", "top_k": 1})),
        ({"prompt": "a", "sampling_params": {"n": 2}}, JobCall("POST", COMPLETIONS, {"prompt": "a", "n": 2})),
        ({"prompt": "a", "sampling_params": None}, JobCall("POST", COMPLETIONS, {"prompt": "a"})),
        (
            {"prompt": "a", "n": 2, "sampling_params": {"n": 2}},
            JobCall("POST", COMPLETIONS, {"prompt": "a", "n": 2}),
        ),
        ({"prompt": "hi", "apply_chat_template": True}, JobCall("POST", CHAT, {"messages": MESSAGES})),
        ({"prompt": "hi", "apply_chat_template": False}, JobCall("POST", COMPLETIONS, {"prompt": "hi"})),
    ],
)
def test_shape_becomes_one_call(given_input: object, call: JobCall) -> None:
    assert read_job_input(given_input) == call


@pytest.mark.parametrize(
    "given_input",
    [
        None,
        [],
        "text",
        3,
        True,
        {},
        {"openai_route": 5},
        {"openai_route": None},
        {"route": ["/v1/models"]},
        {"route": "/v1/models", "method": 1},
        {"prompt": "a", "messages": []},
        {"prompt": "a", "sampling_params": []},
        {"prompt": "a", "sampling_params": {"prompt": "b"}},
        {"prompt": "a", "n": 1, "sampling_params": {"n": 2}},
        {"text": "a"},
    ],
)
def test_anything_else_is_the_callers_to_mend(given_input: object) -> None:
    with pytest.raises(InvalidRequest):
        read_job_input(given_input)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(["openai_route", "openai_input", "route", "body", "method", "prompt", "messages", "x"])


@settings(deadline=None)
@given(JSON | st.dictionaries(NAMES | st.just("sampling_params"), JSON, max_size=4))
def test_no_input_is_a_bug(given_input: object) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(read_job_input(given_input), JobCall)


REQUESTS: list[object] = [{"custom_id": "a"}]


@pytest.mark.parametrize(
    ("given_input", "batch"),
    [
        ({"batch": REQUESTS}, BatchCall(REQUESTS)),
        (REQUESTS, BatchCall(REQUESTS)),
        ({"batch": "HTTPS://files/in.jsonl"}, BatchCall("HTTPS://files/in.jsonl")),
        ({"messages": MESSAGES}, None),
        ([], None),
        (None, None),
    ],
)
def test_many_requests_are_a_batch(given_input: object, batch: BatchCall | None) -> None:
    assert read_batch_input(given_input) == batch


@pytest.mark.parametrize(
    ("given_input", "said"),
    [
        ({"batch": []}, "'batch' has no requests"),
        ({"batch": {"a": 1}}, "must be a list of requests"),
        ({"batch": None}, "must be a list of requests"),
        ({"batch": "file:///etc/passwd"}, "must begin with https:// or http://"),
        ({"batch": "in.jsonl"}, "must begin with https:// or http://"),
        ({"batch": REQUESTS, "temperature": 0}, "'temperature' has no meaning next to 'batch'"),
    ],
)
def test_a_batch_of_another_form_is_refused(given_input: object, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_batch_input(given_input)

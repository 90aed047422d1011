"""Tests that each route names fields as its client sent them, in errors and among those without effect."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import pytest

from tests.asking import ask
from tests.service.scripted import scripted_service
from worker_gguf.batch.dispatch import Dispatch
from worker_gguf.batch.lines import Line
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.observe.account import Account
from worker_gguf.observe.metrics import Metrics

USER = {"role": "user", "content": "a"}
CHAT = {"messages": [USER], "stream": False}
MESSAGE = {"messages": [USER], "max_tokens": 5}
WRONG = {"type": "zzz"}
WITHOUT_SWITCH = "{%- for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% endfor -%}"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/completion", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/infill", {"input_prefix": "x", "input_suffix": "y", "suffix": "z"}, "suffix"),
        ("/infill", {"input_prefix": "x", "input_suffix": "y"}, "input_suffix"),  # the vocabulary has no FIM tokens
        ("/tokenize", {"content": [99_999_999, "a"]}, "content"),
        ("/detokenize", {"tokens": [99_999_999]}, "tokens"),
        ("/v1/messages", {**MESSAGE, "output_format": {"type": "json_schema", "schema": WRONG}}, "output_format"),
        (
            "/v1/messages",
            {**MESSAGE, "output_config": {"format": {"type": "json_schema", "schema": WRONG}}},
            "output_config.format",
        ),
        ("/v1/messages", {**MESSAGE, "response_format": WRONG}, "response_format"),
        ("/v1/messages", {**MESSAGE, "parallel_tool_calls": False}, "parallel_tool_calls"),
        ("/v1/messages", {**MESSAGE, "include_reasoning": True, "thinking": {"display": "omitted"}}, "thinking"),
        ("/v1/messages", {**MESSAGE, "messages": [{"role": "user", "content": "x" * 200_000}]}, "messages"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "function", "parameters": {}}]}, "tools.0.name"),
        ("/v1/responses", {"input": "x", "max_output_tokens": -9}, "max_output_tokens"),
        ("/v1/responses", {"input": "x", "max_output_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ("/v1/responses", {"input": "x", "max_tokens": -9}, "max_tokens"),
        ("/v1/responses", {"input": "x", "max_tokens": 1, "max_output_tokens": 50}, "max_output_tokens"),
        ("/v1/responses", {"input": "x", "messages": []}, "messages"),
        ("/v1/responses", {"input": "x", "response_format": WRONG}, "response_format"),
        ("/v1/responses", {"input": "x" * 200_000}, "input"),
        ("/api/chat", {**CHAT, "options": {"temperature": "hot"}}, "options.temperature"),
        ("/api/chat", {**CHAT, "temperature": "hot"}, "temperature"),
        ("/api/chat", {**CHAT, "max_tokens": "x"}, "max_tokens"),
        ("/api/chat", {**CHAT, "options": {"num_predict": "x"}}, "options.num_predict"),
        ("/api/chat", {**CHAT, "options": {"n_predict": "x"}}, "options.n_predict"),
        ("/api/chat", {**CHAT, "think": True, "enable_thinking": False}, "think"),
        ("/api/chat", {**CHAT, "think": "low", "reasoning_effort": "high"}, "think"),
        ("/api/chat", {**CHAT, "messages": [{"role": "user", "content": "x" * 200_000}]}, "messages"),
        ("/api/generate", {"prompt": "x" * 200_000, "stream": False}, "prompt"),
        ("/api/generate", {"prompt": "x", "context": [99_999_999]}, "context"),
    ],
)
async def test_an_error_names_the_field_that_was_sent(path: str, body: dict[str, Any], param: str) -> None:
    with scripted_service("ok") as (service, _), pytest.raises(InvalidRequest) as caught:
        await ask(service, "POST", path, body)
    named = caught.value.param or ""
    assert named == param or named.startswith(f"{param}.")
    quoted = re.findall(r"\B'([\w.]+)'", caught.value.message)
    assert not quoted or named in quoted


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/api/generate", {"prompt": "x", "messages": [USER], "stream": False}, ("messages",)),
        ("/api/chat", {**CHAT, "options": {"stop_token_ids": [99_999_999]}}, ("options.stop_token_ids.99999999",)),
        ("/api/chat", {**CHAT, "stop_token_ids": [99_999_999]}, ("stop_token_ids.99999999",)),
        ("/api/chat", {**CHAT, "think": "low"}, ("think",)),
        ("/v1/messages", {**MESSAGE, "output_config": {"effort": "low"}}, ("output_config.effort",)),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}], "store": True}, ("store", "tools.0")),
    ],
)
async def test_what_has_no_effect_is_named_as_it_was_sent(
    path: str, body: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    with scripted_service("ok", template=WITHOUT_SWITCH) as (service, _):
        assert (await ask(service, "POST", path, body)).ignored == ignored


async def test_a_field_that_says_the_same_twice_is_no_contradiction() -> None:
    with scripted_service("ok") as (service, _):
        for path, body in (
            ("/v1/responses", {"input": "x", "max_tokens": 5, "max_output_tokens": 5}),
            ("/api/chat", {**CHAT, "think": False, "enable_thinking": False}),
        ):
            assert (await ask(service, "POST", path, body)).ignored == ()


INSPECTED = [
    ("/v1/messages/count_tokens", {"messages": [USER]}),
    ("/v1/responses/input_tokens", {"input": "x"}),
    ("/tokenize", {"content": "x"}),
    ("/api/chat", {}),
    ("/api/generate", {"model": ""}),
    ("/api/show", {}),
]


@pytest.mark.parametrize(("path", "body"), INSPECTED)
async def test_what_has_no_effect_is_named_in_the_log_and_by_every_interface(path: str, body: dict[str, Any]) -> None:
    account = Account("http", "req_test")
    line = json.dumps({"custom_id": "1", "method": "POST", "url": path, "body": {**body, "zzz": 1}}).encode()
    with scripted_service("ok") as (service, _):
        answer = await ask(service, "POST", path, {**body, "zzz": 1}, account)
        result = await Dispatch(cast(Any, service), Metrics("test")).answer(Line(1, "line 1", line, 0))
    assert answer.ignored == ("zzz",)
    assert account.close(200).ignored == ("zzz",)
    assert json.loads(result.content)["response"]["body"]["x_ignored_parameters"] == ["zzz"]


@pytest.mark.parametrize(("path", "body"), INSPECTED)
async def test_what_has_no_effect_is_refused_where_parameters_are_strict(path: str, body: dict[str, Any]) -> None:
    with scripted_service("ok", strict=True) as (service, _):
        with pytest.raises(UnsupportedParameter, match="'zzz' changes nothing here"):
            await ask(service, "POST", path, {**body, "zzz": 1})
        assert (await ask(service, "POST", path, body)).ignored == ()

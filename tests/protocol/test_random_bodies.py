"""Tests that any JSON body gives a call or a client error, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker_gguf.errors import RequestError
from worker_gguf.protocol.bodies import ChatBody, CompletionBody
from worker_gguf.protocol.calls import ChatCall, CompletionCall, Defaults
from worker_gguf.protocol.openai.errors import error_body
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.parameters import ALIASES, IGNORED, REFUSED
from worker_gguf.protocol.screening import ignored_header
from worker_gguf.protocol.wellformed import read_json

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, 10**400])
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(["", "text", "auto", "none", "top_k", "user", "\ud800"])
)
NAMES = st.sampled_from(
    sorted({*ChatBody.model_fields, *CompletionBody.model_fields, *ALIASES, *REFUSED, *IGNORED})
) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | NAMES, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    JSON
    | st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]) | JSON, "content": st.text(max_size=5) | JSON},
        optional={"name": JSON, "tool_calls": JSON, "audio": JSON},
    ),
    max_size=3,
)
BODIES = st.builds(
    lambda fields, given: {**fields, **given},
    st.dictionaries(NAMES, JSON, max_size=6),
    st.fixed_dictionaries({}, optional={"messages": MESSAGES, "prompt": JSON | st.text(max_size=5)}),
)

# A busy machine is slow at making examples up; that says nothing of the parser.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(body: object, *, strict: bool) -> None:
    for parse, kind in (parse_chat, ChatCall), (parse_completion, CompletionCall):
        outcome: Any
        try:
            outcome = parse(body, Defaults(strict=strict))
        except RequestError as error:
            outcome = error
        if isinstance(outcome, RequestError):
            assert 400 <= outcome.status < 500
            assert outcome.message.endswith(".")
            json.dumps(error_body(outcome), ensure_ascii=False).encode()
        else:
            assert isinstance(outcome, kind)
            ignored_header(outcome.options.ignored).encode("ascii")


@settings(BUSY, max_examples=300)
@given(BODIES | JSON, st.booleans())
def test_any_json_is_a_call_or_a_clients_error(body: object, strict: bool) -> None:
    check(body, strict=strict)


@settings(BUSY, max_examples=200)
@given(st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode))
def test_any_bytes_are_json_or_a_clients_error(raw: bytes) -> None:
    try:
        body = read_json(raw)
    except RequestError:
        return
    check(body, strict=False)


@settings(BUSY, max_examples=200)
@given(st.sampled_from(sorted({*ChatBody.model_fields, *CompletionBody.model_fields, *ALIASES})), JSON)
def test_any_value_of_one_parameter(name: str, value: object) -> None:
    good: dict[str, object] = {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    check({**good, name: value}, strict=False)

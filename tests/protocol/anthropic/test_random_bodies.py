"""Tests that any JSON body gives a call or a client error, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.test_random_bodies import BUSY, JSON
from worker_gguf.errors import RequestError
from worker_gguf.protocol.anthropic.bodies import MessagesBody
from worker_gguf.protocol.anthropic.errors import ANTHROPIC
from worker_gguf.protocol.anthropic.requests import parse_count, parse_message
from worker_gguf.protocol.calls import ChatCall, Defaults, InspectionCall
from worker_gguf.protocol.screening import ignored_header

TYPES = st.sampled_from(
    ["text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"]
)
SOURCES = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "base64", "url", "content", "file"]) | JSON},
    optional={"data": JSON, "media_type": JSON, "content": JSON},
)
FIELDS = {
    **dict.fromkeys(("text", "thinking", "id", "name", "tool_use_id", "title"), st.text(max_size=3) | JSON),
    **dict.fromkeys(("input", "is_error", "signature", "cache_control"), JSON),
    "source": SOURCES | JSON,
}
BLOCK = st.fixed_dictionaries({"type": TYPES | JSON}, optional={**FIELDS, "content": JSON})
NESTED = st.fixed_dictionaries({"type": TYPES | JSON}, optional={**FIELDS, "content": st.lists(BLOCK, max_size=2)})
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
        "content": st.text(max_size=3) | st.lists(NESTED, max_size=3) | JSON,
    }
)
OBJECT = st.dictionaries(
    st.sampled_from(["type", "name", "input_schema", "format", "effort", "schema", "display", "budget_tokens"]),
    st.sampled_from(["auto", "any", "tool", "enabled", "disabled", "json_schema", "x"]) | JSON,
)
BODY = st.fixed_dictionaries(
    {"messages": st.lists(TURN, max_size=3) | JSON},
    optional={
        **dict.fromkeys(("tool_choice", "thinking", "output_config", "output_format"), OBJECT | JSON),
        "tools": st.lists(OBJECT, max_size=2) | JSON,
        "system": st.text(max_size=3) | st.lists(NESTED, max_size=2) | JSON,
    },
)
NAMES = st.sampled_from(sorted(MessagesBody.model_fields))


def check(body: object, *, strict: bool) -> None:
    for parse, kind in (parse_message, ChatCall), (parse_count, InspectionCall):
        outcome: Any
        try:
            outcome = parse(body, Defaults(strict=strict))
        except RequestError as error:
            outcome = error
        if isinstance(outcome, RequestError):
            assert 400 <= ANTHROPIC.status(outcome) < 500
            assert outcome.message.endswith(".")
            json.dumps(ANTHROPIC.error_body(outcome), ensure_ascii=False).encode()
        else:
            assert isinstance(outcome, kind)
            ignored = outcome.options.ignored if isinstance(outcome, ChatCall) else outcome.ignored
            ignored_header(ignored).encode("ascii")


@BUSY
@given(BODY | JSON, st.booleans())
def test_any_json_is_a_call_or_a_clients_error(body: object, strict: bool) -> None:
    check(body, strict=strict)


@BUSY
@given(NAMES, JSON)
def test_any_value_of_one_field(name: str, value: object) -> None:
    check({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, name: value}, strict=False)

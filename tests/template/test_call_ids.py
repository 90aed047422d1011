"""Tests of the ids of calls in templates that refuse long ones."""

from __future__ import annotations

import re
from typing import Any

import pytest

from worker_gguf.template.call_ids import short_id
from worker_gguf.template.chat_template import ChatTemplate

# As Mistral's templates do.
STRICT = """{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}
{%- if c.id|length != 9 %}{{ raise_exception('Tool call IDs need length 9!') }}{% endif %}
[{{ c.id }}:{{ c.function.arguments|tojson }}]{% endfor %}
{%- elif m.role == 'tool' %}<{{ m.tool_call_id }}>{% else %}{{ m.content }}{% endif %}{% endfor %}"""


def called(call_id: str) -> list[dict[str, Any]]:
    function = {"name": "f", "arguments": "{}"}
    return [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": "b"},
    ]


@pytest.mark.parametrize("call_id", ["call_0123456789abcdef", "1", "", "toolu_01AbC-ş"])
def test_a_short_id_has_nine_letters_and_digits_and_is_always_the_same(call_id: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", short_id(call_id))
    assert short_id(call_id) == short_id(call_id) == short_id(short_id(call_id))


def test_a_short_id_stays_as_it_is() -> None:
    assert short_id("a1B2c3D4e") == "a1B2c3D4e"


def test_a_template_that_refuses_long_ids_gets_short_ones_in_the_call_and_in_its_result() -> None:
    prompt = ChatTemplate(STRICT).prompt(called("call_0123456789abcdef"))
    short = short_id("call_0123456789abcdef")
    assert f"[{short}:" in prompt
    assert f"<{short}>" in prompt


def test_any_other_template_gets_the_id_of_the_client() -> None:
    lenient = STRICT.replace("length != 9", "length == 0")
    assert "[call_0123456789abcdef:" in ChatTemplate(lenient).prompt(called("call_0123456789abcdef"))

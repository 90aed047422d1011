"""Tests of values in values."""

from __future__ import annotations

import json

import pytest

from worker_gguf.markup.call_format import TaggedValues
from worker_gguf.markup.nested_values import nested_as_json
from worker_gguf.markup.offer import Parameters

VALUES = TaggedValues("<", ">", value_end="</", key_close=">", is_nested=True)
PARAMETERS = Parameters(
    {
        "properties": {
            "list": {"type": "array", "items": {"type": "string"}},
            "object": {"type": "object", "properties": {"a": {"type": "integer"}, "item": {"type": "boolean"}}},
            "text": {"type": ["string", "integer"]},
        }
    }
)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("list", "<item>1</item>\n<item>a b</item>", ["1", "a b"]),
        ("list", "", []),
        ("object", "<a>1</a><b>2</b>", {"a": 1, "b": 2}),
        ("object", "<item>true</item>", {"item": True}),
        ("object", "<b><b>1</b></b>", {"b": {"b": 1}}),
        ("object", " ", {}),
        ("text", "12", 12),
        ("text", "", ""),
        ("text", "<a>", "<a>"),
        ("other", "<item><a>x</a></item>", [{"a": "x"}]),
    ],
)
def test_values_between_marks_become_json(key: str, text: str, value: object) -> None:
    assert json.loads(nested_as_json(text, VALUES, key, PARAMETERS)) == value


def test_depth_has_an_end() -> None:
    text = "<a>" * 500 + "</a>" * 500
    assert json.loads(nested_as_json(text, VALUES, "other", PARAMETERS))

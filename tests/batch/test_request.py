"""Tests of the requests in lines, and of lines that are none."""

from __future__ import annotations

import json

import pytest

from tests.batch.conftest import CHAT, chat
from worker_gguf.batch.lines import Line
from worker_gguf.batch.request import BatchRequest, BrokenLine, read_request


def line(raw: bytes | None) -> Line:
    return Line(3, "Line 17", raw, 5)


def test_a_line_of_openais_format_is_a_request() -> None:
    given = chat("a", n=2)
    assert read_request(line(json.dumps(given).encode())) == BatchRequest("a", "POST", CHAT, {"messages": [], "n": 2})


def test_a_method_may_be_in_lower_case_and_a_get_has_no_body() -> None:
    given = {"custom_id": "a", "method": "get", "url": "/v1/models"}
    assert read_request(line(json.dumps(given).encode())) == BatchRequest("a", "GET", "/v1/models", None)


def test_names_without_a_meaning_are_listed() -> None:
    given = {"custom_id": "a", "method": "GET", "url": "/v1/models", "body": {"n": 1}, "z": 1, "metadata": {}}
    assert read_request(line(json.dumps(given).encode())).ignored == ("body", "metadata", "z")


@pytest.mark.parametrize(
    ("raw", "custom_id", "said"),
    [
        (b'{"custom_id": "a", "method"', None, "The line is not JSON: Expecting ':' delimiter at column 28."),
        (b"\xff\xfe", None, "The line is not UTF-8."),
        (b"[]", None, "must be a JSON object"),
        (b"{}", None, "'custom_id' is missing."),
        (b'{"custom_id": 7, "method": "POST"}', None, "'custom_id' must be a string."),
        (b'{"custom_id": "a", "custom_id": "b"}', None, "The line gives a name twice"),
        (b'{"custom_id": "a", "n": NaN}', None, "The line holds NaN"),
        (b'{"custom_id": "a", "url": "/v1/models"}', "a", "'method' is missing."),
        (b'{"custom_id": "a", "method": "POST", "url": null}', "a", "'url' must be a string."),
        (b"[" * 100_000, None, "nested too deeply"),
        (None, None, "over the limit. Shorten it or raise MAX_BODY_MB."),
    ],
)
def test_a_broken_line_says_why_with_its_number_and_its_id_if_it_has_one(
    raw: bytes | None, custom_id: str | None, said: str
) -> None:
    with pytest.raises(BrokenLine) as caught:
        read_request(line(raw))
    assert caught.value.error.message.startswith("Line 17: ")
    assert said in caught.value.error.message
    assert caught.value.custom_id == custom_id

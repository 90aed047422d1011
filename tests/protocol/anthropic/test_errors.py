"""Tests of Anthropic's errors."""

from __future__ import annotations

import json

import pytest

from worker_gguf import errors
from worker_gguf.protocol.anthropic.errors import ANTHROPIC, PING


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequest("x"), 400, "invalid_request_error"),
        (errors.Unauthorized("x"), 401, "authentication_error"),
        (errors.NotFound("x"), 404, "not_found_error"),
        (errors.MethodNotAllowed("x"), 405, "invalid_request_error"),
        (errors.PayloadTooLarge("x"), 413, "request_too_large"),
        (errors.UnsupportedEncoding("x"), 415, "invalid_request_error"),
        (errors.QueueFull("x"), 429, "rate_limit_error"),
        (errors.EngineFailed("x"), 500, "api_error"),
        (errors.DeadlineExceeded("x"), 504, "timeout_error"),
        (errors.NotReady("x"), 529, "overloaded_error"),
        (errors.EngineCrashed("x"), 529, "overloaded_error"),
        (errors.EngineWedged("x"), 529, "overloaded_error"),
        (errors.NotEnoughMemory("x"), 500, "api_error"),
    ],
)
def test_the_status_and_the_type_of_an_error(error: errors.WorkerError, status: int, kind: str) -> None:
    assert ANTHROPIC.status(error) == status
    assert ANTHROPIC.error_body(error, "req_1") == {
        "type": "error",
        "error": {"type": kind, "message": "x"},
        "request_id": "req_1",
    }


def test_a_prompt_that_is_too_long_has_the_words_that_clients_look_for() -> None:
    message = ANTHROPIC.error_body(errors.ContextLengthExceeded(4096, 4096, param="messages"))["error"]["message"]
    assert message.startswith("prompt is too long: 4096 tokens > 4095 maximum. This model's maximum context length")


def test_an_error_in_a_stream_is_one_event() -> None:
    name, data = ANTHROPIC.error_ending(errors.EngineFailed("x\n\u2028"), "req_1").decode("ascii").strip().split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"] == {"type": "api_error", "message": "x\n\u2028"}


def test_the_keep_alive_is_a_ping() -> None:
    assert ANTHROPIC.framing.keep_alive == PING == b'event: ping\ndata: {"type":"ping"}\n\n'

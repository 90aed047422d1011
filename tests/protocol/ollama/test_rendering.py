"""Tests of the lines and whole answers of Ollama's API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.scripted_parser import ScriptedParser
from worker_gguf.errors import DeadlineExceeded, EngineFailed, QueueFull
from worker_gguf.generation.events import Delta, Event, Finished, TokenLogprob, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.protocol.calls import ChatCall, Defaults, ReadyCall
from worker_gguf.protocol.models import ModelNotServed
from worker_gguf.protocol.ollama.errors import OLLAMA
from worker_gguf.protocol.ollama.rendering import OllamaRendering, render_chat, render_generate
from worker_gguf.protocol.ollama.requests import parse_chat, parse_generate
from worker_gguf.protocol.ollama.times import nanoseconds, rfc3339
from worker_gguf.protocol.rendering import Heading, Outline

HEADING = Heading("chat-1", 1_700_000_000, "m", "fp")
STOP = Finished("stop", Usage(10, 9, 4), end_token=7)
TIMES = Progress(101.0, 10, admitted_s=102.0, first_token_s=102.5, ended_s=104.0)
COUNTS = {
    "total_duration": 4_000_000_000,
    "load_duration": 500_000_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 9,
    "eval_duration": 1_500_000_000,
}
CALL = '!find({"a":1})'
FOUND = {"id": "call_0", "function": {"index": 0, "name": "find", "arguments": {"a": 1}}}


def delta(text: str, *logprobs: TokenLogprob) -> Delta:
    return Delta(text, (1,), logprobs)


def outline() -> Outline:
    return Outline(HEADING, ScriptedParser, [(5, 6)], started_s=100.0, load_s=0.5)


def with_times(made: OllamaRendering) -> OllamaRendering:
    made.progress = [TIMES]
    return made


def chat(**fields: Any) -> OllamaRendering:
    call = parse_chat({"messages": [{"role": "user", "content": "Hi"}], **fields}, Defaults())
    assert isinstance(call, ChatCall)
    return with_times(render_chat(call, outline()))


def generate(**fields: Any) -> OllamaRendering:
    call = parse_generate({"prompt": "Hi", **fields}, Defaults())
    assert not isinstance(call, ReadyCall)
    return with_times(render_generate(call, outline()))


def lines_of(made: OllamaRendering, *steps: Sequence[Event]) -> list[dict[str, Any]]:
    data = b"".join(made.stream(0, step) for step in steps) + made.stream_end()
    assert data.endswith(b"\n")
    lines = [json.loads(line) for line in data.decode("ascii").splitlines()]
    for line in lines:
        datetime.fromisoformat(line.pop("created_at"))
        assert line.pop("model") == "m"
    return lines


def whole(made: OllamaRendering, *events: Event) -> dict[str, Any]:
    made.collect(0, events)
    answer: dict[str, Any] = made.answer()
    datetime.fromisoformat(answer.pop("created_at"))
    return answer


def said(**fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": "", **fields}, "done": False}


def test_a_line_for_each_text_and_a_last_one_with_the_counts() -> None:
    assert lines_of(chat(), [delta("a")], [delta("~h")], [delta("~b"), STOP]) == [
        said(content="a"),
        said(thinking="h"),
        said(content="b"),
        {**said(), "done": True, "done_reason": "stop", **COUNTS},
    ]


def test_a_whole_answer_has_the_same_in_one_object() -> None:
    assert whole(chat(model="m:latest"), delta("~h~a"), delta("b"), STOP) == {
        "model": "m:latest",
        **said(content="ab", thinking="h"),
        "done": True,
        "done_reason": "stop",
        **COUNTS,
    }


@pytest.mark.parametrize(
    ("admitted_s", "durations"),
    [(102.0, (400_000_000, 1_600_000_000)), (104.0, (0, 1)), (None, (0, 1))],
)
def test_tokens_that_came_with_the_first_one_take_their_part_of_that_step(
    admitted_s: float | None, durations: tuple[int, int]
) -> None:
    made = chat()
    made.progress = [Progress(101.0, 10, admitted_s=admitted_s, first_token_s=104.0, ended_s=104.0)]
    answer = whole(made, delta("abc"), Finished("stop", Usage(10, 8, 8)))
    assert (answer["prompt_eval_duration"], answer["eval_duration"]) == durations


def test_an_answer_without_tokens_took_no_time_to_generate() -> None:
    made = chat()
    made.progress = [Progress(101.0, 10, admitted_s=102.0, ended_s=104.0)]
    answer = whole(made, Finished("length", Usage(10, 0, 4)))
    assert (answer["prompt_eval_duration"], answer["eval_duration"]) == (2_000_000_000, 0)


def test_generate_has_its_own_fields_and_a_context() -> None:
    context = {"context": [5, 6, 1, 1, 7]}
    end = {"done": True, "done_reason": "stop", **context, **COUNTS}
    assert lines_of(generate(), [delta("~h~")], [delta("a"), STOP]) == [
        {"response": "", "thinking": "h", "done": False},
        {"response": "a", "done": False},
        {"response": "", **end},
    ]
    assert whole(generate(), delta("~h~"), delta("a"), STOP) == {"model": "m", "response": "a", "thinking": "h", **end}


def test_a_raw_prompt_has_no_context() -> None:
    assert "context" not in lines_of(generate(raw=True), [delta("a"), STOP])[-1]


def test_an_answer_that_was_cut_says_so() -> None:
    assert lines_of(chat(), [Finished("length", Usage(10, 9, 4))])[-1]["done_reason"] == "length"


def test_a_call_is_one_line_and_its_arguments_are_an_object() -> None:
    second = {**FOUND, "id": "call_1", "function": {"index": 1, "name": "go", "arguments": {}}}
    steps = [[delta(letter)] for letter in f"x{CALL}!go()y"]
    assert lines_of(chat(), *steps, [STOP]) == [
        said(content="x"),
        said(tool_calls=[FOUND]),
        said(tool_calls=[second]),
        said(content="y"),
        {**said(), "done": True, "done_reason": "stop", **COUNTS},
    ]
    assert whole(chat(), delta(f"x{CALL}!go()y"), STOP)["message"] == {
        "role": "assistant",
        "content": "xy",
        "tool_calls": [FOUND, second],
    }


def test_a_call_at_the_end_comes_before_the_last_line() -> None:
    assert [line["done"] for line in lines_of(chat(), [delta(CALL), STOP])] == [False, True]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("[1]", {"arguments": [1]}),
        ("x", {"arguments": "x"}),
        ('{"a":1e999}', {"arguments": '{"a":1e999}'}),
        ('{"a":NaN}', {"arguments": '{"a":NaN}'}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
)
def test_arguments_that_are_no_object_get_a_name(written: str, arguments: dict[str, Any]) -> None:
    (call,) = whole(chat(), delta(f"!find({written})"), STOP)["message"]["tool_calls"]
    assert call["function"]["arguments"] == arguments
    first, *_ = lines_of(chat(), [delta(f"!find({written})")], [STOP])
    assert first["message"]["tool_calls"] == [call]


def test_arguments_of_any_depth_leave_an_answer_that_can_be_encoded() -> None:
    for depth in range(800, 1000):
        written = '{"a":' + "[" * depth + "]" * depth + "}"
        (first, *_) = lines_of(chat(), [delta(f"!find({written})")], [STOP])
        assert first["message"]["tool_calls"][0]["function"]["arguments"]


def test_logprobs_come_with_the_lines_of_their_tokens() -> None:
    token = TokenLogprob(1, b"a", -0.5, ((1, b"a", -0.5),))
    body = {"token": "a", "logprob": -0.5, "bytes": [97]}
    shown = [{**body, "top_logprobs": [body]}]
    first, held, last = lines_of(chat(logprobs=True), [delta("a", token)], [delta("", token)], [STOP])
    assert (first["logprobs"], held["logprobs"]) == (shown, shown)
    assert "logprobs" not in last
    assert whole(chat(logprobs=True), delta("a", token), delta("b", token), STOP)["logprobs"] == shown * 2


def test_logprobs_of_a_call_come_with_its_line() -> None:
    token = TokenLogprob(1, b"a", -0.5)
    lines = lines_of(chat(logprobs=True), *([delta(letter, token)] for letter in CALL), [STOP])
    assert sum(len(line.get("logprobs", ())) for line in lines) == len(CALL)


def test_each_of_two_calls_has_the_logprobs_of_its_own_tokens() -> None:
    text = "!find({})!go()"
    steps = [[delta(letter, TokenLogprob(1, letter.encode(), -0.5))] for letter in text]
    first, second, _ = lines_of(chat(logprobs=True), *steps, [STOP])
    assert "".join(logprob["token"] for logprob in first["logprobs"]) == "!find({})"
    assert "".join(logprob["token"] for logprob in second["logprobs"]) == "!go()"


@pytest.mark.parametrize("text", ['"', "\\", "\x00text\x00", "\x00time\x00", "şehir", "\u2028", "\x85", "\n"])
def test_any_text_and_any_name_come_back(text: str) -> None:
    line = chat(model=text).stream(0, [delta(text)])
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["message"]["content"] == text
    assert json.loads(line)["model"] == text


def test_an_error_ends_a_stream_with_a_line() -> None:
    made = chat()
    made.stream(0, [delta("a")])
    assert made.stream(0, [Finished("error", Usage(1, 1, 0), error=EngineFailed("It failed."))]) == b""
    assert made.error is not None
    assert OLLAMA.error_ending(made.error) == b'{"error":"It failed."}\n'
    with pytest.raises(EngineFailed):
        made.answer()


def test_errors_are_a_text_with_the_words_and_the_status_of_ollama() -> None:
    unknown = ModelNotServed("x", ["a", "b"])
    assert OLLAMA.error_body(unknown) == {"error": "model 'x' not found. This worker serves 'a', 'b'."}
    assert OLLAMA.status(unknown) == 404
    assert OLLAMA.status(QueueFull("Full.")) == 503
    assert OLLAMA.status(DeadlineExceeded("Late.")) == 504


def test_a_keep_alive_is_harmless_before_a_line_and_at_the_end() -> None:
    line = chat().stream(0, [delta("a")])
    padded = OLLAMA.framing.keep_alive * 3 + line
    assert json.loads(padded.splitlines()[0])["message"]["content"] == "a"
    assert not OLLAMA.framing.keep_alive.strip()
    assert b"\n" not in OLLAMA.framing.keep_alive


def test_times_are_in_utc_with_nanoseconds() -> None:
    assert rfc3339(1_700_000_000_000_000_012) == "2023-11-14T22:13:20.000000012Z"
    assert datetime.fromisoformat(rfc3339(1_700_000_000_500_000_000)) == datetime(
        2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC
    )
    assert (nanoseconds(1.5), nanoseconds(-0.1)) == (1_500_000_000, 0)

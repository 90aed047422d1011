"""Tests of the answers of llama-server's routes that generate, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker_gguf.engine.updates import FinishReason
from worker_gguf.errors import ContextLengthExceeded, EngineFailed, NotFound, QueueFull
from worker_gguf.generation.events import Delta, Event, Finished, TokenLogprob, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.llama_server.errors import LLAMA_SERVER
from worker_gguf.protocol.llama_server.rendering import NativeRendering, render
from worker_gguf.protocol.llama_server.requests import parse_completion
from worker_gguf.protocol.rendering import Heading, Outline

HEADING = Heading("cmpl-1", 7, "m", "fp")


def rendering(
    prompt: Any = "Hi", *, prompts: Any = ((1, 2, 3),), is_cut: bool = False, **fields: Any
) -> NativeRendering:
    call = parse_completion({"prompt": prompt, **fields}, Defaults())
    texts = tuple(f"prompt {number}" for number in range(len(prompts))) if call.shows_prompt else ()
    return render(call, Outline(HEADING, prompts=prompts, texts=texts, is_cut=is_cut))


def ended(reason: FinishReason = "length", n: int = 2, **more: Any) -> Finished:
    return Finished(reason, Usage(3, n, 1), **more)


def whole(made: NativeRendering, *events: Event, index: int = 0) -> Any:
    made.collect(index, events)
    return made.answer()


def streamed(made: NativeRendering, *steps: list[Event]) -> list[Any]:
    raw = b"".join(made.stream(0, events) for events in steps) + made.stream_end()
    return [json.loads(event.removeprefix("data: ")) for event in raw.decode().split("\n\n") if event]


def test_a_whole_answer_has_its_text_its_counts_and_what_it_was_made_with() -> None:
    made = rendering(n_predict=2, temperature=0, stop=["x"])
    answer = whole(made, Delta("Hello", (5,)), Delta("\n", (6,)), ended())
    settings = answer.pop("generation_settings")
    times = answer.pop("timings")
    assert answer == {
        "index": 0,
        "content": "Hello\n",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": "m",
        "tokens_predicted": 2,
        "tokens_evaluated": 3,
        "prompt": "prompt 0",
        "has_new_line": True,
        "truncated": False,
        "stop_type": "limit",
        "stopping_word": "",
        "tokens_cached": 4,
    }
    assert (settings["n_predict"], settings["temperature"], settings["stop"]) == (2, 0, ["x"])
    assert (times["prompt_n"], times["predicted_n"]) == (3, 2)


def test_the_times_are_those_of_the_engine() -> None:
    made = rendering()
    made.progress = (Progress(1.0, 3, 2.0, 4.0, 4.5, cached_tokens=1, completion_tokens=2),)
    assert whole(made, Delta("a", (5, 6)), ended())["timings"] == {
        "cache_n": 1,
        "prompt_n": 2,
        "prompt_ms": 2000.0,
        "prompt_per_token_ms": 1000.0,
        "prompt_per_second": 1.0,
        "predicted_n": 2,
        "predicted_ms": 500.0,
        "predicted_per_token_ms": 250.0,
        "predicted_per_second": 4.0,
    }


def test_an_answer_without_tokens_has_no_rate() -> None:
    made = rendering(n_predict=0)
    made.progress = (Progress(1.0, 3, 2.0, None, 3.0),)
    times = whole(made, ended(n=0))["timings"]
    assert (times["prompt_ms"], times["predicted_n"], times["predicted_per_second"]) == (1000.0, 0, 0.0)


@pytest.mark.parametrize(
    ("finished", "stop_type", "word", "cached"),
    [
        (ended("length"), "limit", "", 4),
        (ended("stop", stop="x"), "word", "x", 4),
        (ended("stop", end_token=2), "eos", "", 5),
    ],
)
def test_why_an_answer_ended(finished: Finished, stop_type: str, word: str, cached: int) -> None:
    answer = whole(rendering(n_predict=2), Delta("a", (5, 6)), finished)
    assert (answer["stop_type"], answer["stopping_word"], answer["tokens_cached"]) == (stop_type, word, cached)


def test_an_answer_is_truncated_where_the_context_ends_or_the_prompt_was_cut() -> None:
    assert whole(rendering(n_predict=5), Delta("a", (5, 6)), ended())["truncated"]
    assert whole(rendering(n_predict=-1), Delta("a", (5, 6)), ended())["truncated"]
    assert whole(rendering(n_predict=2, is_cut=True), Delta("a", (5, 6)), ended())["truncated"]


def test_tokens_are_returned_if_they_are_wanted() -> None:
    assert whole(rendering(return_tokens=True), Delta("a", (5,)), Delta("", (6,)), ended())["tokens"] == [5, 6]


def test_several_answers_are_a_list() -> None:
    made = rendering(["a", "b"], prompts=((1,), (2, 3)), n=2)
    for index in range(4):
        made.collect(index, [Delta(str(index), (index,)), ended(n=1)])
    answers = made.answer()
    assert [(answer["index"], answer["content"], answer["prompt"]) for answer in answers] == [
        (0, "0", "prompt 0"),
        (1, "1", "prompt 0"),
        (2, "2", "prompt 1"),
        (3, "3", "prompt 1"),
    ]


def test_only_the_wanted_fields_are_returned_each_under_its_path() -> None:
    made = rendering(response_fields=["content", "generation_settings/top_k", "timings/prompt_n", "a/b", "content/x"])
    assert whole(made, Delta("a", (5,)), ended(n=1)) == {
        "content": "a",
        "generation_settings/top_k": 40,
        "timings/prompt_n": 3,
    }


def logprob(token: int, piece: bytes, value: float) -> TokenLogprob:
    return TokenLogprob(token, piece, value, ((token, piece, value), (9, b"\xe2\x82", float("-inf"))))


def test_probabilities_name_each_token_by_id_text_and_bytes() -> None:
    made = rendering(n_probs=2)
    (place,) = whole(made, Delta("a", (5,), (logprob(5, b"a", -0.5),)), ended(n=1))["completion_probabilities"]
    top = place.pop("top_logprobs")
    assert place == {"id": 5, "token": "a", "bytes": [97], "logprob": -0.5}
    assert top[1] == {"id": 9, "token": "", "bytes": [0xE2, 0x82], "logprob": pytest.approx(-3.4e38, rel=0.01)}


def test_a_stream_has_a_chunk_for_each_step_and_ends_with_the_settings() -> None:
    made = rendering(n_predict=3)
    *chunks, last = streamed(made, [Delta("a", (5,))], [Delta("b\n", (6,)), Delta("", (7,)), ended(n=3)])
    own = {"index": 0, "stop": False, "id_slot": -1, "tokens_evaluated": 3}
    assert chunks == [
        own | {"content": "a", "tokens": [5], "tokens_predicted": 1},
        own | {"content": "b\n", "tokens": [6, 7], "tokens_predicted": 3},
    ]
    assert (last["stop"], last["content"], last["tokens"], last["has_new_line"]) == (True, "", [], True)
    assert last["generation_settings"]["stream"] is False
    assert last["stop_type"] == "limit"


def test_a_chunk_has_the_probabilities_of_one_token() -> None:
    made = rendering(n_probs=1)
    both = Delta("ab", (5, 6), (logprob(5, b"a", -0.5), logprob(6, b"b", -1.0)))
    *chunks, last = streamed(made, [both, ended(n=2)])
    assert [(chunk["content"], chunk["tokens"], chunk["tokens_predicted"]) for chunk in chunks] == [
        ("", [5], 1),
        ("ab", [6], 2),
    ]
    assert [[place["id"] for place in chunk["completion_probabilities"]] for chunk in chunks] == [[5], [6]]
    assert "completion_probabilities" not in last


def test_each_chunk_has_the_times_so_far_if_they_are_wanted() -> None:
    made = rendering(timings_per_token=True)
    made.progress = (Progress(1.0, 3, 2.0, 3.0, 4.0),)
    first, last = streamed(made, [Delta("a", (5,)), ended(n=1)])
    assert first["timings"] == last["timings"]
    assert last["generation_settings"]["timings_per_token"]


def test_texts_that_readers_of_streams_would_break_are_escaped() -> None:
    made = rendering()
    assert b"\xe2" not in made.stream(0, [Delta("\u2028\x85\n", (5,))])


def test_an_answer_that_failed_ends_without_a_last_chunk() -> None:
    made = rendering()
    failed = EngineFailed("Broken.")
    assert streamed(made, [Delta("a", (5,))], [ended("error", error=failed)])[-1]["stop"] is False
    assert made.error is failed
    assert made.stream(0, [Delta("b", (6,))]) == b""
    with pytest.raises(EngineFailed):
        made.answer()


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (QueueFull("Full."), 429, "rate_limit_error"),
        (NotFound("Gone.", param="model"), 404, "not_found_error"),
        (EngineFailed("Broken."), 500, "server_error"),
        (ContextLengthExceeded(9, 8), 400, "exceed_context_size_error"),
    ],
)
def test_an_error_has_its_status_as_its_code(error: Any, code: int, kind: str) -> None:
    body = LLAMA_SERVER.error_body(error)["error"]
    assert (body["code"], body["type"], body["message"]) == (code, kind, error.message)
    assert body.get("param") == error.param
    assert body.get("n_ctx") == (8 if kind == "exceed_context_size_error" else None)
    assert json.loads(LLAMA_SERVER.error_ending(error).decode().removeprefix("data: ")) == {"error": body}


def test_a_line_that_ended_an_answer_is_a_limit() -> None:
    at_line = whole(rendering(n_indent=4, n_predict=9), Delta("a\n", (5, 6)), ended("stop"))
    assert (at_line["stop_type"], at_line["truncated"]) == ("limit", False)
    by_itself = whole(rendering(n_indent=4, n_predict=9), Delta("a\n", (5, 6)), ended("stop", end_token=2))
    assert by_itself["stop_type"] == "eos"

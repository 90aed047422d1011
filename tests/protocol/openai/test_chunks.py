"""Tests of rendering engine events as bytes and answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from worker_gguf.errors import DeadlineExceeded, EngineFailed, NotReady, WorkerError
from worker_gguf.generation.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob, Usage
from worker_gguf.protocol.openai.chat_rendering import ChatRendering
from worker_gguf.protocol.openai.chunks import ChunkRendering
from worker_gguf.protocol.openai.completion_rendering import CompletionRendering
from worker_gguf.protocol.openai.errors import DONE
from worker_gguf.protocol.rendering import Heading, Rendering

HEADING = Heading("chatcmpl-1", 1_700_000_000, 'a "model"', "b1-cpu")
STOP = Finished("stop", Usage(10, 3, 4))
LENGTH = Finished("length", Usage(10, 5, 9))


def delta(text: str, *logprobs: TokenLogprob) -> Delta:
    return Delta(text, tuple(token.token for token in logprobs) or (1,), logprobs)


def token(piece: bytes, logprob: float = -0.5, top: tuple[tuple[int, bytes, float], ...] = ()) -> TokenLogprob:
    return TokenLogprob(1, piece, logprob, top)


def events_of(stream: bytes) -> list[Any]:
    """Take a stream apart as a client does, and hold it to the form: whole events, one line each."""
    assert stream == b"" or stream.endswith(b"\n\n")
    lines = stream.decode("ascii").split("\n\n")[:-1]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines]


def texts(chunks: Sequence[Any]) -> list[str]:
    return [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]


def answered(rendering: Rendering, *choices: Sequence[Event]) -> dict[str, Any]:
    for index, events in enumerate(choices):
        rendering.collect(index, events)
    answer: dict[str, Any] = rendering.answer()
    return answer


def test_a_stream_of_a_chat() -> None:
    rendering = ChatRendering(HEADING)
    stream = rendering.stream(0, [delta("Hel")]) + rendering.stream(0, [delta("lo")]) + rendering.stream(0, [STOP])
    *chunks, done = events_of(stream + rendering.stream_end())
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[0] | {"choices": []} == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": 'a "model"',
        "system_fingerprint": "b1-cpu",
        "choices": [],
    }
    assert done == "data: [DONE]"


def test_a_stream_of_a_completion() -> None:
    rendering = CompletionRendering(HEADING)
    chunks = events_of(rendering.stream(0, [delta("Hel"), delta("lo"), LENGTH]))
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"},
    ]
    assert chunks[0]["object"] == "text_completion"


@pytest.mark.parametrize(
    "text", ['"', "\\", "\n\n", "\r", "\x00", "şehir", "😀", "\u2028\x85", "data: [DONE]", "\ud800"]
)
def test_any_text_stays_one_line_and_comes_back(text: str) -> None:
    rendering = ChatRendering(HEADING)
    assert texts(events_of(rendering.stream(0, [delta(text)])))[1:] == [text]


def test_a_model_named_like_the_place_of_the_text_does_no_harm() -> None:
    rendering = ChatRendering(Heading("x", 1, "\x00text\x00", "f"))
    assert texts(events_of(rendering.stream(0, [delta("a")]))) == ["", "a"]


def test_deltas_of_one_step_are_one_chunk() -> None:
    rendering = ChatRendering(HEADING)
    rendering.stream(0, [delta("")])
    assert texts(events_of(rendering.stream(0, [delta("a"), delta(""), delta("b")]))) == ["ab"]


def test_no_text_is_no_chunk() -> None:
    rendering = ChatRendering(HEADING)
    assert texts(events_of(rendering.stream(0, [delta("")]))) == [""]
    assert rendering.stream(0, [delta("")]) == b""
    assert rendering.stream(0, [delta(""), delta("")]) == b""
    assert rendering.stream(0, []) == b""


def test_every_choice_opens_with_its_role() -> None:
    rendering = ChatRendering(HEADING, n=2)
    chunks = events_of(rendering.stream(1, [delta("b")]) + rendering.stream(0, [delta("a")]))
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 1, 1, 0]
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["assistant", "assistant", None, None]


def test_usage_comes_last_and_is_null_before() -> None:
    rendering = ChatRendering(HEADING, include_usage=True)
    stream = rendering.stream(0, [delta("a")]) + rendering.stream(0, [STOP]) + rendering.stream_end()
    *chunks, last, done = events_of(stream)
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert done == "data: [DONE]"


def test_usage_counts_a_prompt_once_and_every_answer() -> None:
    body = answered(
        CompletionRendering(HEADING, n_prompts=2, n=2),
        [Finished("stop", Usage(10, 1, 0))],
        [Finished("stop", Usage(10, 2, 9))],
        [Finished("stop", Usage(20, 3, 19))],
        [Finished("stop", Usage(20, 4, 5))],
    )
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (30, 10, 40)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0 + 5


def test_an_answer_to_a_chat() -> None:
    body = answered(ChatRendering(HEADING, n=2), [delta("Hel"), delta("lo"), STOP], [delta("Bye"), LENGTH])
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": "Bye", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        },
    ]


def test_an_answer_equals_its_stream() -> None:
    steps: list[list[Event]] = [[delta("a")], [delta("")], [delta("b"), delta("ş")], [delta("c"), STOP]]
    streamed, whole = ChatRendering(HEADING), ChatRendering(HEADING)
    chunks = events_of(b"".join(streamed.stream(0, step) for step in steps))
    for step in steps:
        whole.collect(0, step)
    assert "".join(texts(chunks)) == whole.answer()["choices"][0]["message"]["content"] == "abşc"


def test_echo_begins_each_choice_with_its_prompt() -> None:
    echo = ("One", "Two")
    choices: list[list[Event]] = [[delta("!"), STOP]] * 4
    body = answered(CompletionRendering(HEADING, n_prompts=2, n=2, echo=echo), *choices)
    assert [choice["text"] for choice in body["choices"]] == ["One!", "One!", "Two!", "Two!"]
    rendering = CompletionRendering(HEADING, n_prompts=2, n=2, echo=echo)
    chunks = events_of(rendering.stream(2, [delta("!")]) + rendering.stream(2, [delta("?")]))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Two", "!", "?"]


def test_echo_with_logprobs_begins_with_those_of_the_prompt() -> None:
    prompt = [TokenLogprob(0, b"<s>", None), token(b" Hi", -1.0, ((7, b" Ho", -0.2),)), token(b"!")]
    answer: list[Event] = [delta(" Yes", token(b" Yes", -0.1)), STOP]
    events: list[Event] = [PromptLogprobs(tuple(prompt[:1])), PromptLogprobs(tuple(prompt[1:])), *answer]
    body = answered(CompletionRendering(HEADING, logprobs=True, echo=["Hi!"]), events)
    (choice,) = body["choices"]
    assert choice["text"] == "Hi! Yes"
    assert choice["logprobs"] == {
        "tokens": ["<s>", " Hi", "!", " Yes"],
        "token_logprobs": [None, -1.0, -0.5, -0.1],
        "top_logprobs": [None, {" Ho": -0.2, " Hi": -1.0}, {"!": -0.5}, {" Yes": -0.1}],
        "text_offset": [0, 0, 2, 3],
    }
    rendering = CompletionRendering(HEADING, logprobs=True, echo=["Hi!"])
    assert rendering.stream(0, events[:1]) == b""
    chunks = events_of(b"".join(rendering.stream(0, [event]) for event in events[1:]))
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks[:-1]]
    for name, values in choice["logprobs"].items():
        assert [value for logprobs in streamed for value in logprobs[name]] == values


@pytest.mark.parametrize("kind", [ChatRendering, CompletionRendering])
@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (Finished("error", Usage(1, 1, 0), error=DeadlineExceeded("Too late.")), DeadlineExceeded),
        (Finished("error", Usage(1, 1, 0)), EngineFailed),
        (Finished("cancelled", Usage(1, 1, 0)), NotReady),
    ],
)
def test_a_failure_is_never_an_end(kind: type[ChunkRendering], ending: Finished, error: type[WorkerError]) -> None:
    streamed = kind(HEADING, n=2, include_usage=True)
    chunks = events_of(streamed.stream(0, [delta("a"), ending]))
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]] == [None] * len(chunks)
    assert isinstance(streamed.error, error)
    assert streamed.stream(1, [delta("b"), STOP]) == b""
    assert streamed.stream_end() == DONE

    whole = kind(HEADING)
    whole.collect(0, [delta("a"), ending])
    with pytest.raises(error):
        whole.answer()


def test_logprobs_of_a_chat() -> None:
    top = ((1, b"Hi", -0.25), (2, b"Yo", -1.5))
    body = answered(ChatRendering(HEADING, logprobs=True), [delta("Hi", token(b"Hi", -0.25, top)), STOP])
    assert body["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.25,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.25, "bytes": [72, 105]},
                    {"token": "Yo", "logprob": -1.5, "bytes": [89, 111]},
                ],
            }
        ],
        "refusal": None,
    }


def test_logprobs_of_a_stream_come_with_their_deltas() -> None:
    rendering = ChatRendering(HEADING, logprobs=True)
    _, first = events_of(rendering.stream(0, [delta("", token(b"a"))]))
    assert first["choices"][0]["delta"] == {"content": ""}
    (second,) = events_of(rendering.stream(0, [delta("ab", token(b"b")), delta("c", token(b"c"))]))
    assert second["choices"][0]["delta"] == {"content": "abc"}
    assert [entry["token"] for entry in second["choices"][0]["logprobs"]["content"]] == ["b", "c"]


def test_logprobs_of_a_completion() -> None:
    tokens = (token(b"a", -0.5, ((1, b"a", -0.5), (2, b"x", -2.0))), token("ş".encode()[:1]), token("ş".encode()[1:]))
    events: list[Event] = [delta("a", tokens[0]), delta("ş!", *tokens[1:], token(b"!", -3.0)), STOP]
    whole = answered(CompletionRendering(HEADING, logprobs=True), events)["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["a", "bytes:\\xc5", "bytes:\\x9f", "!"],
        "token_logprobs": [-0.5, -0.5, -0.5, -3.0],
        "top_logprobs": [{"a": -0.5, "x": -2.0}, {"bytes:\\xc5": -0.5}, {"bytes:\\x9f": -0.5}, {"!": -3.0}],
        "text_offset": [0, 1, 1, 2],
    }
    rendering = CompletionRendering(HEADING, logprobs=True)
    chunks = events_of(b"".join(rendering.stream(0, [event]) for event in events))
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]]
    assert offsets == [[0], [1, 1, 2]]


@pytest.mark.parametrize("logprob", [float("-inf"), float("inf"), float("nan")])
@pytest.mark.parametrize("kind", [ChatRendering, CompletionRendering])
def test_a_logprob_that_is_no_number_becomes_one(kind: type[ChunkRendering], logprob: float) -> None:
    event = delta("a", token(b"a", logprob, ((1, b"a", logprob),)))
    assert b"-9999.0" in kind(HEADING, logprobs=True).stream(0, [event])


def test_the_ids_of_a_chat() -> None:
    events: list[Event] = [Delta("He", (5,), ()), Delta("", (6, 7), ()), replace(STOP, end_token=8)]
    body = answered(ChatRendering(HEADING, prompt_ids=[(1, 2)]), events)
    assert (body["prompt_token_ids"], body["choices"][0]["token_ids"]) == ((1, 2), [5, 6, 7, 8])
    rendering = ChatRendering(HEADING, prompt_ids=[(1, 2)])
    first, *chunks, end = events_of(rendering.stream(0, events[:1]) + rendering.stream(0, events[1:]))
    assert first["prompt_token_ids"] == [1, 2]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[5], [6, 7]]
    assert texts(chunks) == ["He", ""]
    assert end["choices"][0]["token_ids"] == [8]
    assert all("prompt_token_ids" not in chunk for chunk in (*chunks, end))


def test_the_ids_of_completions_of_several_prompts() -> None:
    prompt_ids = [(1, 2), (3,)]
    choices: list[list[Event]] = [[Delta("a", (5,), ()), STOP], [Delta("b", (6,), ()), LENGTH]]
    body = answered(CompletionRendering(HEADING, n_prompts=2, prompt_ids=prompt_ids), *choices)
    shown = [(choice["prompt_token_ids"], choice["token_ids"]) for choice in body["choices"]]
    assert shown == [((1, 2), [5]), ((3,), [6])]
    rendering = CompletionRendering(HEADING, n_prompts=2, prompt_ids=prompt_ids)
    first, second, _ = events_of(rendering.stream(1, choices[1]))
    assert first["choices"][0]["prompt_token_ids"] == [3]
    assert second["choices"][0]["token_ids"] == [6]


def test_ids_come_beside_log_probabilities() -> None:
    rendering = ChatRendering(HEADING, logprobs=True, prompt_ids=[(1,)])
    _, chunk = events_of(rendering.stream(0, [delta("Hi", token(b"Hi"))]))
    assert chunk["choices"][0]["token_ids"] == [1]
    assert len(chunk["choices"][0]["logprobs"]["content"]) == 1


def test_each_choice_of_a_chat_has_its_ids_and_its_first_chunk_those_of_the_prompt() -> None:
    rendering = ChatRendering(HEADING, n=2, prompt_ids=[(1, 2)])
    for index, token_id in ((0, 5), (1, 6)):
        first, chunk = events_of(rendering.stream(index, [Delta("a", (token_id,), ())]))
        assert first["prompt_token_ids"] == [1, 2]
        assert chunk["choices"][0] | {"delta": {}} == {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": [token_id],
        }


def test_an_answer_without_tokens_has_no_ids() -> None:
    body = answered(CompletionRendering(HEADING, prompt_ids=[(1, 2)], echo=["Hi"]), [LENGTH])
    assert (body["choices"][0]["prompt_token_ids"], body["choices"][0]["token_ids"]) == ((1, 2), [])
    rendering = CompletionRendering(HEADING, prompt_ids=[(1, 2)], echo=["Hi"])
    first, end = events_of(rendering.stream(0, [LENGTH]))
    assert (first["choices"][0]["text"], first["choices"][0]["prompt_token_ids"]) == ("Hi", [1, 2])
    assert "token_ids" not in end["choices"][0]


def test_choices_of_a_chat_are_opened_in_order() -> None:
    """OpenAI's client appends each new choice to a list."""
    rendering = ChatRendering(HEADING, n=3)
    chunks = events_of(rendering.stream(2, [delta("c")]) + rendering.stream(0, [delta("a")]))
    opened = [chunk["choices"][0]["index"] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
    assert opened == [0, 1, 2]
    assert texts(chunks) == ["", "", "", "c", "a"]

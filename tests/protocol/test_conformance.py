"""Tests of every answer and chunk, in every mode, against OpenAI's schemas and OpenAI's client."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worker_gguf import errors
from worker_gguf.generation.events import Delta, Event, Finished, TokenLogprob, Usage
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.openai.chat_rendering import ChatRendering
from worker_gguf.protocol.openai.chunks import ChunkRendering
from worker_gguf.protocol.openai.completion_rendering import CompletionRendering
from worker_gguf.protocol.openai.errors import error_body, error_event
from worker_gguf.protocol.openai.models import MODELS, model_body
from worker_gguf.protocol.rendering import Heading
from worker_gguf.protocol.route import Listed

Conforms = Callable[[str, Any], None]

HEADING = Heading("cmpl-1", 1_700_000_000, "model", "b1-cpu")
MODES = [
    {"n": n, "include_usage": include_usage, "logprobs": logprobs}
    for n, include_usage, logprobs in itertools.product((1, 3), (False, True), (False, True))
]
RENDERINGS: list[Callable[..., ChunkRendering]] = [
    ChatRendering,
    CompletionRendering,
    lambda heading, **mode: CompletionRendering(heading, n_prompts=2, **mode),
    lambda heading, **mode: CompletionRendering(heading, n_prompts=2, echo=("One", ""), **mode),
]


def delta(text: str, piece: bytes, logprob: float) -> Delta:
    top = ((1, piece, logprob), (2, b"\xff", float("-inf")))
    return Delta(text, (1,), (TokenLogprob(1, piece, logprob, top),))


STEPS: list[list[Event]] = [
    [delta("a", b"a", -0.5)],
    [delta("", b"\xc5", 0)],
    [delta("ş", b"\x9f", float("-inf")), delta("\n", b"\n", -2.5)],
    [Delta("", ()), Finished("length", Usage(5, 4, 3))],
]


def data_of(stream: bytes) -> Iterator[Any]:
    for event in stream.split(b"\n\n"):
        if event and event != b"data: [DONE]":
            yield json.loads(event.removeprefix(b"data: "))


def streamed(rendering: ChunkRendering) -> list[Any]:
    parts = [rendering.stream(index, step) for step in STEPS for index in range(rendering.n_choices)]
    return list(data_of(b"".join(parts) + rendering.stream_end()))


def whole(rendering: ChunkRendering) -> dict[str, Any]:
    for step in STEPS:
        for index in range(rendering.n_choices):
            rendering.collect(index, step)
    answer: dict[str, Any] = rendering.answer()
    return answer


def is_chat(rendering: ChunkRendering) -> bool:
    return isinstance(rendering, ChatRendering)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("make", RENDERINGS)
def test_chunks_conform(conforms: Conforms, make: Callable[..., ChunkRendering], mode: dict[str, Any]) -> None:
    rendering = make(HEADING, **mode)
    chunks = streamed(rendering)
    assert len(chunks) > 2 * rendering.n_choices
    for chunk in chunks:
        conforms("CreateChatCompletionStreamResponse" if is_chat(rendering) else "CompletionChunk", chunk)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("make", RENDERINGS)
def test_answers_conform(conforms: Conforms, make: Callable[..., ChunkRendering], mode: dict[str, Any]) -> None:
    rendering = make(HEADING, **mode)
    conforms("CreateChatCompletionResponse" if is_chat(rendering) else "CreateCompletionResponse", whole(rendering))


def all_errors() -> Iterator[errors.WorkerError]:
    for name in errors.__all__:
        kind = getattr(errors, name)
        yield kind(5, 4) if kind is errors.ContextLengthExceeded else kind("What. Do that.", param="model")


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: type(error).__name__)
def test_errors_conform(conforms: Conforms, error: errors.WorkerError) -> None:
    for body in error_body(error), *data_of(error_event(error)):
        # Our addition, which llama-server has as well.
        ours = {name for name in ("n_prompt_tokens", "n_ctx") if body["error"].pop(name, None) is not None}
        assert bool(ours) == isinstance(error, errors.ContextLengthExceeded)
        conforms("ErrorResponse", body)


def test_models_conform(conforms: Conforms) -> None:
    card = ModelCard("m", 1, aliases=("a",), n_ctx=1, n_params=2, quantization="Q8_0")
    listed = MODELS.answer(Listed([(card, None)], lambda name: (card, None), None, {}, None))
    single = model_body(card)
    for body in *listed["data"], single:
        del body["meta"]  # our addition
    conforms("ListModelsResponse", listed)
    conforms("Model", single)


@pytest.mark.parametrize("wrong", [{"extra": 1}, {"choices": [{"index": 0}]}, {"created": "now"}, {"usage": None}])
def test_the_check_finds_a_wrong_answer(conforms: Conforms, wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        conforms("CreateChatCompletionResponse", whole(ChatRendering(HEADING)) | wrong)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_openais_client_reads_every_shape(mode: dict[str, Any]) -> None:
    types = pytest.importorskip("openai.types")
    chat_types = pytest.importorskip("openai.types.chat")
    chat, completion = ChatRendering(HEADING, **mode), CompletionRendering(HEADING, **mode)
    # Strict on the text of the JSON: nothing is converted but what JSON lacks.
    chat_types.ChatCompletion.model_validate_json(json.dumps(whole(chat)), strict=True)
    types.Completion.model_validate_json(json.dumps(whole(completion)), strict=True)
    for chunk in streamed(ChatRendering(HEADING, **mode)):
        chat_types.ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
    types.Model.model_validate_json(json.dumps(model_body(ModelCard("m", 1))), strict=True)

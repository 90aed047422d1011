"""Tests of the routes that look at tokens and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Call, ChatCall, Defaults
from worker_gguf.protocol.llama_server.inspections import APPLY_TEMPLATE, CHAT_TOKENS, DETOKENIZE, TOKENIZE
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.route import Inspection

MESSAGES = [{"role": "user", "content": "Hi"}]


class Letters:
    """Inspects with a token for each byte; 1 begins a text, and a name in brackets is the token 2 if it is parsed."""

    card = ModelCard("m", 1)

    def prompt_text(self, call: ChatCall) -> str:
        return "".join(f"<{message['content']}>" for message in call.messages)

    def prompt_tokens(self, call: Call) -> Sequence[Sequence[int]]:
        assert isinstance(call, ChatCall)
        return [self.tokenize(self.prompt_text(call), add_special=True, parse_special=True)]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Sequence[int]:
        first = [1] if add_special else []
        if parse_special and text == "[x]":
            return [*first, 2]
        return [*first, *text.encode()]

    def text(self, tokens: Sequence[int], param: str) -> str:
        if any(token > 255 for token in tokens):
            raise InvalidRequest("There is no such token.", param=param)
        return bytes(tokens).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        return bytes([token])


def ask(task: Inspection, body: Any, defaults: Defaults | None = None) -> Any:
    return task.answer(task.parse(body, defaults or Defaults()), Letters())


def test_a_text_is_tokenised_as_it_stands_with_the_names_of_special_tokens() -> None:
    assert ask(TOKENIZE, {"content": "ab"}) == {"tokens": [97, 98]}
    assert ask(TOKENIZE, {"content": "[x]"}) == {"tokens": [2]}
    assert ask(TOKENIZE, {"content": "[x]", "parse_special": False}) == {"tokens": list(b"[x]")}
    assert ask(TOKENIZE, {"content": "a", "add_special": True}) == {"tokens": [1, 97]}
    assert ask(TOKENIZE, {"content": ""}) == {"tokens": []}


def test_texts_and_ids_are_joined_and_only_the_first_text_gets_a_beginning() -> None:
    assert ask(TOKENIZE, {"content": ["a", 5, "b"], "add_special": True}) == {"tokens": [1, 97, 5, 98]}
    assert ask(TOKENIZE, {"content": [5, "b"], "add_special": True}) == {"tokens": [5, 98]}
    assert ask(TOKENIZE, {"content": []}) == {"tokens": []}


def test_a_piece_that_is_no_text_is_a_list_of_bytes() -> None:
    assert ask(TOKENIZE, {"content": "aé", "with_pieces": True}) == {
        "tokens": [{"id": 97, "piece": "a"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "content"),
        ({"content": 5}, "content"),
        ({"content": ["a", True]}, "content.1"),
        ({"content": "a", "add_special": 1}, "add_special"),
        ({"content": "a", "model": 5}, "model"),
    ],
)
def test_a_wrong_field_is_named(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(TOKENIZE, body)
    assert refused.value.param == param


def test_an_id_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no such token"):
        ask(TOKENIZE, {"content": [300]})


def test_tokens_become_a_text() -> None:
    assert ask(DETOKENIZE, {"tokens": [97, 98.0]}) == {"content": "ab"}
    assert ask(DETOKENIZE, {"tokens": []}) == {"content": ""}
    with pytest.raises(InvalidRequest, match="'tokens' is required"):
        ask(DETOKENIZE, {})
    with pytest.raises(InvalidRequest, match=r"tokens\.1"):
        ask(DETOKENIZE, {"tokens": [1, "a"]})


def test_unknown_fields_are_named_or_refused() -> None:
    for task, body in (TOKENIZE, {"content": "a", "x": 1}), (DETOKENIZE, {"tokens": [], "x": 1}):
        assert task.parse(body, Defaults()).ignored == ("x",)
        with pytest.raises(UnsupportedParameter, match="STRICT_PARAMETERS"):
            task.parse(body, Defaults(strict=True))


def test_an_empty_name_of_a_model_is_none() -> None:
    assert TOKENIZE.parse({"content": "a", "model": ""}, Defaults()).model is None


def test_a_conversation_is_rendered_and_counted() -> None:
    body = {"messages": MESSAGES, "user": "u"}
    assert ask(APPLY_TEMPLATE, body) == {"prompt": "<Hi>"}
    assert ask(CHAT_TOKENS, body) == {"input_tokens": 5, "object": "response.input_tokens"}
    call = APPLY_TEMPLATE.parse(body | {"model": "m"}, Defaults())
    assert (call.model, call.ignored) == ("m", ("user",))
    assert call.chat is not None

"""Tests of prompts as tokens: BOS, token ids, biases, and the limits of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import llama_cpp
import pytest

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from worker_gguf.llama import backend
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.protocol.calls import Defaults, Options
from worker_gguf.protocol.llama_server.requests import parse_completion as parse_native
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.screening import ignored_header
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.markups import Markups
from worker_gguf.service.prompts import Prepared, Prompts, Tokenizer
from worker_gguf.template.chat_template import ChatTemplates

VOCABULARIES = Path(__file__).parents[3] / "shared" / "vocab"
BOS, EOS = 1, 2


class Letters:
    """A token for each character, from 10 on; `<s>` is BOS. With `adds_eos` a text also gets an end."""

    n_tokens = 300
    bos: int | None = BOS

    def __init__(
        self, *, adds_bos: bool = True, adds_eos: bool = False, fim: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.adds_bos = adds_bos
        self._fim = fim
        self._adds_eos = adds_eos

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        first, *rest = text.split("<s>") if parse_special else [text]
        tokens = [10 + ord(letter) for letter in first]
        for part in rest:
            tokens += [BOS, *(10 + ord(letter) for letter in part)]
        if not add_special:
            return tokens
        return [*([BOS] if self.adds_bos else []), *tokens, *([EOS] if self._adds_eos else [])]

    def fim_token(self, kind: str) -> int | None:
        return self._fim.get(kind)

    def piece(self, token: int) -> bytes:
        return b"" if token == BOS else chr(max(0, token - 10)).encode()

    def control_piece(self, token: int) -> bytes:
        return b"<s>" if token == BOS else self.piece(token)

    def text(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.control_piece, tokens)).decode()


def prompts(tokenizer: Tokenizer | None = None, *, n_ctx: int = 100, strict: bool = False) -> Prompts:
    tokenizer = tokenizer or Letters()
    return Prompts(tokenizer, conversations(tokenizer), n_ctx, "<s>", strict)


def conversations(tokenizer: Tokenizer, template: str | None = None) -> Conversations:
    return Conversations(ChatTemplates.compile(template), Markups(tokenizer))


def tokens_of(prompt: Any, tokenizer: Tokenizer | None = None) -> list[tuple[int, ...]]:
    return prompts(tokenizer).prepare(parse_completion({"prompt": prompt}, Defaults())).prompts


def biased(logit_bias: Any, **fields: Any) -> Options:
    body = {"prompt": "x", "logit_bias": logit_bias, **fields}
    return prompts().prepare(parse_completion(body, Defaults())).options


@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("text", ["Hello", " Hello", "", "a<s>b"])
def test_a_prompt_that_begins_with_the_text_of_bos_gets_one_bos(text: str, adds_eos: bool) -> None:
    tokenizer = Letters(adds_eos=adds_eos)
    assert tokens_of(f"<s>{text}", tokenizer) == tokens_of(text, tokenizer)


def test_each_prompt_of_a_list_gets_one_bos() -> None:
    assert tokens_of(["<s>a", "b"]) == [(BOS, 107), (BOS, 108)]


def test_two_bos_that_were_written_stay_two() -> None:
    assert tokens_of("<s><s>a") == [(BOS, BOS, 107)]


def test_where_the_model_adds_no_bos_the_text_of_it_stays() -> None:
    assert tokens_of("<s>a", Letters(adds_bos=False)) == [(BOS, 107)]
    assert tokens_of("a", Letters(adds_bos=False)) == [(107,)]


def test_a_prompt_of_token_ids_stays_as_it_is() -> None:
    assert tokens_of([[BOS, BOS, 107], [107]]) == [(BOS, BOS, 107), (107,)]


@pytest.fixture(params=["llama-bpe", "llama-spm", "qwen2"])
def published(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    path = VOCABULARIES / f"ggml-vocab-{request.param}.gguf"
    if not path.is_file():
        pytest.skip(f"{path} is not here: it comes with the shared folder beside the repository")
    backend.start()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert pointer is not None
    yield Vocabulary(pointer)
    llama_cpp.llama_model_free(pointer)


def test_published_vocabularies_get_one_bos_where_they_want_one(published: Vocabulary) -> None:
    bos_text = published.token_text(published.bos)
    assert bos_text
    made = Prompts(published, conversations(published), 100, bos_text)
    with_text, without = (
        made.prepare(parse_completion({"prompt": text + "The capital of France is"}, Defaults())).prompts[0]
        for text in (bos_text, "")
    )
    if published.adds_bos:
        assert with_text == without
        assert with_text.count(published.bos) == 1
    else:
        assert with_text == (published.bos, *without)


@pytest.mark.parametrize("wrong", [-1, 300, 2**31 - 1])
def test_a_prompt_with_an_id_that_is_not_a_token_is_refused(wrong: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tokens_of([5, wrong])
    assert refused.value.param in ("prompt", "prompt.1")
    assert wrong < 0 or refused.value.message == f"{wrong} is not a token of this model, whose ids go from 0 to 299."


def test_bias_ids_of_another_vocabulary_are_ignored_by_name_and_the_others_work() -> None:
    options = biased({"199999": -90, "5": -100, "-7": 1, "0": 2}, user="u")
    assert dict(options.sampling.logit_bias) == {5: -100.0, 0: 2.0}
    assert options.ignored == ("user", "logit_bias.-7", "logit_bias.199999")
    assert ignored_header(options.ignored) == "user, logit_bias.-7, logit_bias.199999"


def test_thousands_of_such_ids_do_not_make_a_header_of_thousands() -> None:
    options = biased({str(1000 + number): 1 for number in range(10_000)})
    header = ignored_header(options.ignored)
    assert options.sampling.logit_bias == ()
    assert header.startswith("logit_bias.1000, logit_bias.1001, ")
    assert header.endswith(", ...")
    assert len(header) < 2100
    assert len(options.ignored) <= 200


def test_strict_parameters_refuse_such_an_id() -> None:
    call = parse_completion({"prompt": "x", "logit_bias": {"5": 1, "199999": 1}}, Defaults(strict=True))
    with pytest.raises(UnsupportedParameter) as refused:
        prompts(strict=True).prepare(call)
    assert refused.value.param == "logit_bias"
    assert refused.value.message.startswith("199999 is not a token of this model, whose ids go from 0 to 299.")


def test_the_bias_of_a_text_lies_on_each_of_its_tokens() -> None:
    assert dict(biased({"ab": False, "5": 1}).sampling.logit_bias) == {5: 1.0, 107: float("-inf"), 108: float("-inf")}


def test_the_error_of_a_prompt_that_is_too_long_has_the_requested_tokens() -> None:
    call = parse_completion({"prompt": "a" * 20, "max_tokens": 7}, Defaults())
    with pytest.raises(ContextLengthExceeded) as refused:
        prompts(n_ctx=10).prepare(call)
    assert "maximum context length is 10 tokens. However, you requested 28 tokens" in refused.value.message
    assert "(21 in the prompt, 7 in the completion)" in refused.value.message
    chat = parse_chat({"messages": [{"role": "user", "content": "a"}]}, Defaults())
    with pytest.raises(ContextLengthExceeded) as refused:
        prompts(n_ctx=10).prepare(chat)
    assert refused.value.param == "messages"
    assert "in the messages, 1 in the completion" in refused.value.message


def test_an_effort_that_the_template_does_not_read_is_ignored_by_name_or_refused() -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "none", "user": "u"}
    assert prompts().prepare(parse_chat(body, Defaults())).options.ignored == ("user", "reasoning_effort")
    body.pop("user")
    with pytest.raises(UnsupportedParameter, match="does not read it") as refused:
        prompts(strict=True).prepare(parse_chat(body, Defaults(strict=True)))
    assert refused.value.param == "reasoning_effort"


def test_an_effort_reaches_the_switch_of_the_template() -> None:
    made = Prompts(
        Letters(),
        conversations(
            Letters(),
            "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is false %}!{% endif %}",
        ),
        100,
        "<s>",
    )
    body = {"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "none"}
    prepared = made.prepare(parse_chat(body, Defaults()))
    assert Letters().text(prepared.prompts[0][1:]) == "a!"
    assert prepared.options.ignored == ()
    kept = made.prepare(parse_chat(body | {"chat_template_kwargs": {"enable_thinking": True}}, Defaults()))
    assert Letters().text(kept.prompts[0][1:]) == "a"


@pytest.mark.parametrize("route", ["chat", "completion"])
def test_control_tokens_are_shown_only_if_special_tokens_are_not_skipped(route: str) -> None:
    def prepared(**fields: Any) -> Prepared:
        if route == "completion":
            return prompts().prepare(parse_completion({"prompt": "x", **fields}, Defaults()))
        return prompts().prepare(parse_chat({"messages": [{"role": "user", "content": "a"}], **fields}, Defaults()))

    assert prepared(skip_special_tokens=False).shown == {BOS}
    assert prepared(skip_special_tokens=True).shown == prepared().shown == frozenset()


def test_stop_tokens_that_the_model_does_not_have_are_ignored_by_name_or_refused() -> None:
    call = parse_completion({"prompt": "x", "stop_token_ids": [5, 300]}, Defaults())
    options = prompts().prepare(call).options
    assert (options.stop_tokens, options.ignored) == ((5,), ("stop_token_ids.300",))
    with pytest.raises(UnsupportedParameter) as refused:
        prompts(strict=True).prepare(call)
    assert refused.value.param == "stop_token_ids"


def mixed(*parts: str | int, tokenizer: Tokenizer | None = None) -> tuple[int, ...]:
    call = parse_native({"prompt": list(parts)}, Defaults())
    (tokens,) = prompts(tokenizer).prepare(call).prompts
    return tokens


def test_texts_and_ids_are_joined_and_only_a_first_text_gets_bos() -> None:
    assert mixed("a", 50, "b", 51) == (BOS, 107, 50, 108, 51)
    assert mixed("<s>a", 50) == (BOS, 107, 50)
    assert mixed(50, "a") == (50, 107)
    assert mixed(50, "<s>a") == (50, BOS, 107)
    assert mixed("a", 50, tokenizer=Letters(adds_bos=False)) == (107, 50)


def test_an_unknown_id_between_texts_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="300 is not a token of this model"):
        mixed("a", 300)

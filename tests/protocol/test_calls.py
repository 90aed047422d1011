"""Tests of parsing bodies to calls."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, CompletionCall, Defaults, InfillCall, Options
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.reasoning import Asked

HELLO: dict[str, Any] = {"role": "user", "content": "Hello"}


def chat(*messages: dict[str, Any], defaults: Defaults | None = None, **fields: Any) -> ChatCall:
    return parse_chat({"messages": list(messages) or [HELLO], **fields}, defaults or Defaults())


def complete(prompt: Any = "Hello", defaults: Defaults | None = None, **fields: Any) -> CompletionCall:
    call = parse_completion({"prompt": prompt, **fields}, defaults or Defaults())
    assert isinstance(call, CompletionCall)
    return call


def fill(prompt: Any = "Hello", **fields: Any) -> InfillCall:
    call = parse_completion({"prompt": prompt, **fields}, Defaults())
    assert isinstance(call, InfillCall)
    return call


def options(**fields: Any) -> Options:
    """Return the options of a completion, which must be equal for a chat."""
    completion = complete(**fields).options
    assert chat(**fields).options == completion
    return completion


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        complete(**fields)
    return refused.value


def chat_refusal(*messages: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        chat(*messages, **fields)
    return refused.value


def test_a_request_that_says_nothing_gets_the_defaults() -> None:
    defaults = Defaults(SamplingParams(temperature=0.1, min_p=0.3), max_tokens=7)
    call = complete(defaults=defaults)
    assert call.prompts == ("Hello",)
    assert call.options == Options(
        model=None,
        sampling=defaults.sampling,
        text_biases=(),
        max_tokens=7,
        min_tokens=0,
        stop=(),
        n=1,
        top_logprobs=None,
        stream=False,
        include_usage=False,
        cache_prompt=True,
        priority=0,
        timeout_s=None,
        ignored=(),
    )


def test_null_is_not_given() -> None:
    nulls = dict.fromkeys(["temperature", "stop", "n", "seed", "logit_bias", "tools", "user", "nobody_knows", "stream"])
    assert options(**nulls) == options()


def test_what_the_request_says_lies_over_the_defaults() -> None:
    defaults = Defaults(SamplingParams(temperature=0.1, min_p=0.3), max_tokens=7)
    asked = complete(defaults=defaults, temperature=2, max_tokens=9).options
    assert (asked.sampling.temperature, asked.sampling.min_p, asked.max_tokens) == (2, 0.3, 9)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens", "num_predict"])
def test_every_name_of_max_tokens(name: str) -> None:
    assert options(**{name: 5}).max_tokens == 5
    assert complete(defaults=Defaults(max_tokens=7), **{name: -1}).options.max_tokens is None
    assert options(**{name: 0}).max_tokens == 0
    assert refusal(**{name: -2}).param == name


def test_two_names_of_one_parameter_must_agree() -> None:
    assert options(max_tokens=5, n_predict=5).max_tokens == 5
    error = refusal(max_tokens=5, n_predict=6)
    assert error.param == "n_predict"
    aliases = "'max_tokens' and 'n_predict' are aliases of one parameter and have different values."
    assert error.message == f"{aliases} Send one of them."
    assert refusal(repeat_penalty=1, repetition_penalty=True).param == "repetition_penalty"


def test_aliases_of_samplers() -> None:
    sampling = options(repetition_penalty=1.2, typical=0.9, mirostat_mode=2, nsigma=1.5).sampling
    assert (sampling.repeat_penalty, sampling.typical_p, sampling.mirostat, sampling.top_n_sigma) == (1.2, 0.9, 2, 1.5)
    assert options(ban_eos_token=True).sampling.ignore_eos


def test_min_tokens_may_not_pass_max_tokens() -> None:
    assert options(min_tokens=5, max_tokens=5).min_tokens == 5
    assert refusal(min_tokens=6, max_tokens=5).param == "min_tokens"


def test_stop_is_a_text_or_a_list_of_up_to_256() -> None:
    assert options(stop="a").stop == ("a",)
    assert options(stop=["a", "b", "a"]).stop == ("a", "b")
    assert options(stop=[]).stop == ()
    assert len(options(stop=[str(i) for i in range(256)]).stop) == 256
    assert refusal(stop=["a"] * 257).message == "Invalid 'stop': must have at most 256 items."
    assert refusal(stop=["a", 5]).message == "Invalid 'stop.1': must be a string, not an integer."
    assert refusal(stop=5).message == "Invalid 'stop': must be a string or a list, not an integer."


@pytest.mark.parametrize("stop", ["", [""], ["", ""], []])
def test_an_empty_stop_text_asks_for_nothing(stop: object) -> None:
    assert options(stop=stop) == options()
    assert options(stop=["", "\nUser:"]).stop == ("\nUser:",)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "n_predict", "min_tokens", "n", "n_probs", "top_k", "repeat_last_n", "mirostat", "min_keep", "seed"],
)
def test_a_whole_float_is_an_integer(name: str) -> None:
    assert options(**{name: 2.0}) == options(**{name: 2})
    assert isinstance(options(seed=7.0).sampling.seed, int)
    error = refusal(**{name: 2.5})
    assert error.param == name
    assert error.message == f"Invalid '{name}': must be an integer, not 2.5."


def test_whole_floats_are_integers_in_lists_and_next_to_refused_values() -> None:
    assert complete([1.0, 2]).prompts == complete([1, 2]).prompts
    assert complete([[1], [2.0]]).prompts == ((1,), (2,))
    (prompt,) = complete([1.0, 2]).prompts
    assert isinstance(prompt, tuple)
    assert all(type(token) is int for token in prompt)
    assert chat(logprobs=True, top_logprobs=3.0).options.top_logprobs == 3
    assert options(dry_allowed_length=3.0, dry_penalty_last_n=-1.0) == options(
        dry_allowed_length=3, dry_penalty_last_n=-1
    )
    assert options(n=2.0, best_of=2.0).n == 2
    assert options(max_tokens=8.0, n_predict=8).max_tokens == 8
    assert refusal(max_tokens=1e30).message.startswith("Invalid 'max_tokens': must be at most")
    assert refusal(prompt=[1, 2.5]).message == "Invalid 'prompt.1': must be an integer, not 2.5."


def test_usage_in_the_stream_needs_a_stream() -> None:
    assert options(stream=True, stream_options={"include_usage": True}).include_usage
    unstreamed = options(stream_options={"include_usage": True})
    assert not unstreamed.include_usage
    assert unstreamed.ignored == ("stream_options",)


def test_what_changes_nothing_is_named() -> None:
    asked = options(user="u", store=True, nobody_knows=1, stream=True, stream_options={"include_obfuscation": False})
    assert asked.ignored == ("nobody_knows", "store", "stream_options.include_obfuscation", "user")


def test_strict_refuses_all_that_changes_nothing() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        complete(defaults=Defaults(strict=True), user="u", nobody_knows=1)
    assert "'nobody_knows', 'user'" in refused.value.message
    assert refused.value.param == "nobody_knows"


def test_parameters_of_the_other_route_are_ignored() -> None:
    assert complete(messages=[HELLO], reasoning_effort="low").options.ignored == ("messages", "reasoning_effort")
    assert chat(prompt="x").options.ignored == ("prompt",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("structural_tag", {"begin": "<a>"}),
        ("best_of", 2),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("web_search_options", {}),
        ("lora_adapters", [{"id": 0, "scale": 1}]),
        ("n_keep", 5),
        ("t_max_predict_ms", 100),
        ("use_beam_search", True),
        ("post_sampling_probs", True),
        ("tfs", 0.5),
        ("num_beams", True),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    for error in refusal(**{name: value}), chat_refusal(**{name: value}):
        assert isinstance(error, UnsupportedParameter)
        assert error.param == name
        assert f"'{name}'" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("tool_choice", "auto"),
        ("tool_choice", "none"),
        ("response_format", {"type": "text"}),
        ("grammar", ""),
        ("suffix", ""),
        ("best_of", 1),
        ("modalities", ["text"]),
        ("lora_adapters", []),
        ("n_keep", -1),
        ("use_beam_search", False),
        ("tfs", 1.0),
        ("tfs", 1),
        ("guidance_scale", 1.0),
    ],
)
def test_a_refused_parameter_that_asks_for_nothing_passes(name: str, value: Any) -> None:
    assert options(**{name: value}) == options()


def test_the_best_of_n_answers_are_n() -> None:
    assert options(n=3, best_of=3).n == 3
    assert refusal(n=3, best_of=1).param == "best_of"
    assert options(n_cmpl=3, best_of=3).n == 3


def test_refusal_names_every_parameter() -> None:
    assert "'num_beams', 'tfs'" in refusal(num_beams=4, tfs=0.5).message


def test_a_suffix_makes_a_completion_fill_a_gap() -> None:
    call = fill("def f(", suffix="return x", max_tokens=3)
    assert (call.prefix, call.suffix, call.begun, call.extra) == ("def f(", "return x", "", None)
    assert call.options.max_tokens == 3
    assert not call.fits_context
    assert fill(["a"], suffix="b").prefix == "a"
    assert parse_completion({"prompt": "a", "suffix": "b"}, Defaults(spm_infill=True)) == replace(
        fill("a", suffix="b"), suffix_first=True
    )


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1]]])
def test_a_gap_is_between_two_texts(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be one text if there is a suffix"):
        fill(prompt, suffix="x")


def test_an_answer_that_fills_a_gap_cannot_repeat_the_prompt() -> None:
    assert refusal(suffix="x", echo=True).param == "echo"


def test_a_chat_has_no_suffix() -> None:
    assert chat_refusal(suffix="x").param == "suffix"


def test_an_empty_name_of_a_model_is_none() -> None:
    assert complete(model="").model is None


def test_a_refusal_names_the_alternative() -> None:
    assert "timeout" in refusal(t_max_predict_ms=5).message


def test_echo_is_for_completions_and_scores_the_prompt_with_logprobs() -> None:
    assert complete(echo=True).echo
    assert not complete(echo=True).options.scores_prompt
    assert not complete(logprobs=1).options.scores_prompt
    assert complete(echo=True, logprobs=0).options.scores_prompt
    assert chat_refusal(echo=True).param == "echo"
    assert chat(echo=False).options.ignored == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": 0}, 0),
        ({"logprobs": 3}, 3),
        ({"n_probs": 3}, 3),
        ({"n_probs": 0}, None),
        ({"logprobs": 3, "n_probs": 3}, 3),
    ],
)
def test_logprobs_of_completions(fields: dict[str, Any], expected: int | None) -> None:
    assert complete(**fields).options.top_logprobs == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"n_probs": 4}, 4),
        ({"logprobs": True, "n_probs": 4}, 4),
    ],
)
def test_logprobs_of_chat(fields: dict[str, Any], expected: int | None) -> None:
    assert chat(**fields).options.top_logprobs == expected


def test_logprobs_out_of_bounds() -> None:
    assert refusal(logprobs=21).param == "logprobs"
    assert refusal(logprobs=True).message == "Invalid 'logprobs': must be an integer, not true or false."
    assert refusal(logprobs=3, n_probs=4).param == "n_probs"
    assert chat_refusal(logprobs=True, top_logprobs=21).param == "top_logprobs"
    assert chat_refusal(logprobs=5).param == "logprobs"
    assert chat_refusal(top_logprobs=5).param == "top_logprobs"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_forms_of_a_prompt(prompt: Any, expected: Any) -> None:
    assert complete(prompt).prompts == expected


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        (5, "prompt"),
        ({}, "prompt"),
        ([], "prompt"),
        ([[]], "prompt.0"),
        (["a", 1], "prompt.1"),
        ([1, "a"], "prompt.1"),
        ([1, -1], "prompt.1"),
        ([1.5], "prompt.0"),
        ([True], "prompt.0"),
        ([[1], ["a"]], "prompt.1.0"),
        ([2**31], "prompt.0"),
    ],
)
def test_no_prompt(prompt: Any, param: str) -> None:
    assert refusal(prompt=prompt).param == param


def test_prompts_times_n_is_bounded() -> None:
    assert len(complete(["a"] * 64).prompts) == 64
    assert refusal(prompt=["a"] * 65).param == "prompt"
    assert refusal(prompt=["a"] * 5, n=16).param == "prompt"
    assert refusal(n=17).param == "n"
    assert refusal(n=0).param == "n"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("temperature", "hot", "must be a number, not a string"),
        ("temperature", True, "must be a number, not true or false"),
        ("temperature", -0.5, "must be at least 0, not -0.5"),
        ("temperature", 10**400, "must be"),
        ("top_p", 1.5, "must be at most 1, not 1.5"),
        ("top_k", 5.5, "must be an integer, not 5.5"),
        ("top_k", [1], "must be an integer, not a list"),
        ("stream", "yes", "must be true or false, not a string"),
        ("stream", 1, "must be true or false, not an integer"),
        ("stream_options", [], "must be an object, not a list"),
        ("model", 5, "must be a string, not an integer"),
        ("mirostat", 3, "must be at most 2, not 3"),
        ("repeat_penalty", 0, "must be more than 0, not 0"),
        ("timeout", 0, "must be more than 0, not 0"),
        ("seed", 2**64, "must be less than"),
        ("samplers", "top_k;" * 1000, "must have at most 1000 characters"),
        ("samplers", ["top_k"] * 33, "must have at most 32 items"),
        ("dry_sequence_breakers", ["a", 1], "must be a string, not an integer"),
    ],
)
def test_a_bad_value_names_its_field(name: str, value: Any, what: str) -> None:
    error = refusal(**{name: value})
    assert error.param is not None
    assert error.param.split(".")[0] == name
    assert error.message.startswith(f"Invalid '{error.param}': {what}")
    assert error.status == 400


def test_a_bad_value_under_an_alias_names_the_alias() -> None:
    assert refusal(repetition_penalty="x").param == "repetition_penalty"


def test_a_message_never_repeats_a_text_that_was_sent() -> None:
    secret = "the secret prompt"
    for fields in {"stop": [secret, 5]}, {"seed": secret}, {"logit_bias": {secret: "x"}}, {"samplers": [secret]}:
        assert secret not in refusal(**fields).message
    assert secret not in chat_refusal({"role": secret, "content": secret}).message


def test_messages_reach_the_template_as_they_are() -> None:
    sent: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief"}]},
        {"role": "user", "content": "Weather?", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "content": "rain", "tool_call_id": "1", "name": "f"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "model_config": 1, "__class__": 2},
    ]
    assert list(chat(*sent).messages) == sent


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages.0.role"),
        ({"role": "robot", "content": "x"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages.0.content"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"role": "user", "content": ["x"]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": [], "text": "x"}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages.0.content.0.image_url.url"),
        ({"role": "user", "content": "x", "name": 5}, "messages.0.name"),
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "messages.0.audio"),
        ("x", "messages.0"),
    ],
)
def test_a_bad_message_names_its_place(message: Any, param: str) -> None:
    assert chat_refusal(message).param == param


@pytest.mark.parametrize("messages", [[], {}, "x", 5])
def test_messages_must_be_a_list_that_is_not_empty(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat({"messages": messages}, Defaults())
    assert refused.value.param == "messages"


@pytest.mark.parametrize("kind", ["image", "input_image", "video_url", "input_audio", "file"])
def test_parts_that_are_neither_text_nor_image_url_are_refused_by_their_kind(kind: str) -> None:
    error = chat_refusal({"role": "user", "content": [{"type": kind, kind: {"url": "x"}}]})
    assert isinstance(error, UnsupportedParameter)
    assert kind in error.message


def test_continuing_the_final_message() -> None:
    started = {"role": "assistant", "content": "Once"}
    call = chat(HELLO, started, continue_final_message=True)
    assert call.continue_final_message
    assert not call.add_generation_prompt
    assert chat(HELLO).add_generation_prompt
    assert not chat(HELLO, add_generation_prompt=False).add_generation_prompt
    both = chat_refusal(HELLO, started, continue_final_message=True, add_generation_prompt=True)
    assert both.param == "continue_final_message"


def test_template_variables() -> None:
    call = chat(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low")
    assert (call.template_variables, call.reasoning.effort) == (
        {"enable_thinking": False},
        Asked("low", ("reasoning_effort",)),
    )
    error = chat_refusal(chat_template_kwargs={"reasoning_effort": "high"}, reasoning_effort="low")
    assert error.param == "reasoning_effort"


def test_parsing_leaves_the_body_as_it_was() -> None:
    body = {"messages": [dict(HELLO)], "user": None, "chat_template_kwargs": {"a": 1}, "reasoning_effort": "low"}
    before = repr(body)
    parse_chat(body, Defaults())
    assert repr(body) == before


def test_what_ends_or_bans_texts_and_tokens() -> None:
    options = complete(
        banned_strings=["a", "b", "a"], stop_token_ids=[3, 1, 3], include_stop_str_in_output=True, stop="x"
    ).options
    assert (options.banned_texts, options.stop_tokens, options.keeps_stop) == (("a", "b"), (3, 1), True)
    assert complete(skip_special_tokens=False).options.shows_controls
    assert not complete(skip_special_tokens=True).options.shows_controls
    assert chat_refusal(return_token_ids=True, include_reasoning=False).param == "return_token_ids"
    assert [complete(return_token_ids=value).options.shows_ids for value in (True, False)] == [True, False]
    assert refusal(banned_strings=[""]).param == "banned_strings.0"
    assert refusal(stop_token_ids=[-1]).param == "stop_token_ids.0"


@pytest.mark.parametrize(
    ("name", "value"),
    [("smoothing_factor", 0.3), ("smoothing_curve", 2.5), ("top_a", 0.2), ("no_repeat_ngram_size", 3)],
)
def test_samplers_of_text_generation_webui(name: str, value: float) -> None:
    asked: dict[str, Any] = {name: value}
    assert getattr(complete(**asked).options.sampling, name) == value
    assert complete(**asked).options.ignored == ()
    assert refusal(**{name: -1}).param == name

"""Tests of the bodies of llama-server's routes that generate."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.engine.request import LineLimits
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Defaults, ExtraText, MixedPrompt
from worker_gguf.protocol.llama_server.calls import AnswerForm, NativeCompletion, NativeInfill
from worker_gguf.protocol.llama_server.requests import parse_completion, parse_infill


def complete(prompt: Any = "Hello", **fields: Any) -> NativeCompletion:
    return parse_completion({"prompt": prompt, **fields}, Defaults())


def fill(**fields: Any) -> NativeInfill:
    return parse_infill({"input_prefix": "a", "input_suffix": "b", **fields}, Defaults())


def refusal(prompt: Any = "Hello", **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        complete(prompt, **fields)
    return refused.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hello", ("Hello",)),
        ("", ("",)),
        ([1, 2], ((1, 2),)),
        ([1.0, 2], ((1, 2),)),
        ([1, "a", 2], (MixedPrompt((1, "a", 2)),)),
        (["a", 1], (MixedPrompt(("a", 1)),)),
        (["a", "b"], ("a", "b")),
        ([[1], "a", ["b", 2]], ((1,), "a", MixedPrompt(("b", 2)))),
        ({"prompt_string": "a"}, ("a",)),
        ([{"prompt_string": ["a", 1]}, [3]], (MixedPrompt(("a", 1)), (3,))),
        ({"prompt_string": "a", "multimodal_data": []}, ("a",)),
    ],
)
def test_the_forms_of_a_prompt(prompt: Any, prompts: Any) -> None:
    assert complete(prompt).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "param", "message"),
    [
        (5, "prompt", "must be a string or a list or an object"),
        ([], "prompt", "must not be empty"),
        ([[]], "prompt.0", "must not be empty"),
        ([1, True], "prompt.1", "must be a text or the id of a token"),
        ([1, None], "prompt.1", "must be a text or the id of a token"),
        ([1, 1.5], "prompt.1", "must be a text or the id of a token"),
        ([-1], "prompt.0", "must be from 0 to 2147483647"),
        (["a", ["b", -2]], "prompt.1.1", "must be from 0 to 2147483647"),
        (["a", None], "prompt.1", "must be a text, a list of texts and token ids"),
        ([{}], "prompt.0.prompt_string", "is required"),
        ({"prompt_string": 5}, "prompt.prompt_string", "must be a text or a list"),
        (["a"] * 65, "prompt", "must have at most 64 prompts"),
    ],
)
def test_a_wrong_prompt_is_refused_with_its_place(prompt: Any, param: str, message: str) -> None:
    error = refusal(prompt)
    assert error.param == param
    assert message in error.message


def test_data_of_other_kinds_in_a_prompt_is_refused() -> None:
    error = refusal([{"prompt_string": "a", "multimodal_data": ["aGk="]}])
    assert isinstance(error, UnsupportedParameter)
    assert error.param == "prompt.0.multimodal_data"


def test_prompts_times_answers_are_bounded() -> None:
    assert refusal(["a"] * 33, n=2).param == "prompt"


def test_the_prompt_is_required() -> None:
    with pytest.raises(InvalidRequest, match="'prompt' is required"):
        parse_completion({}, Defaults())


def test_every_sampler_and_option_of_a_completion_is_honoured() -> None:
    options = complete(n_predict=5, top_k=3, samplers=["top_k"], stop="x", n_probs=2, logprobs=2, id_slot=1).options
    assert (options.max_tokens, options.sampling.top_k, options.stop, options.top_logprobs) == (5, 3, ("x",), 2)
    assert options.sampling.samplers == ("top_k",)
    assert options.ignored == ("id_slot",)


def test_no_probabilities_are_none() -> None:
    assert complete(n_probs=0, logprobs=0).options.top_logprobs is None


def test_the_form_of_the_answer() -> None:
    assert complete().form == AnswerForm()
    asked = complete(return_tokens=True, timings_per_token=True, response_fields=["a/b", "a/b", "c"])
    assert asked.form == AnswerForm(True, True, ("a/b", "c"))
    assert asked.options.ignored == ()


def test_the_text_of_the_prompt_is_written_only_if_it_is_wanted() -> None:
    assert complete().shows_prompt
    assert complete(response_fields=["prompt"]).shows_prompt
    assert not complete(response_fields=["content"]).shows_prompt


@pytest.mark.parametrize(
    ("bans", "biases", "expected"),
    [
        ("1, 2", None, ((1, float("-inf")), (2, float("-inf")))),
        ([1], [[2, 1.5]], ((2, 1.5), (1, float("-inf")))),
        ("1", {"2": 1}, ((2, 1.0), (1, float("-inf")))),
        ("", [], ()),
        ([], None, ()),
    ],
)
def test_banned_tokens_are_biases(bans: Any, biases: Any, expected: Any) -> None:
    options = complete(custom_token_bans=bans, logit_bias=biases).options
    assert options.sampling.logit_bias == expected
    assert options.ignored == ()


@pytest.mark.parametrize("bans", ["1;2", "one", "-1", [-1], "4294967296", [1.5], 5])
def test_wrong_bans_are_refused(bans: Any) -> None:
    param = refusal(custom_token_bans=bans).param
    assert param is not None
    assert param.startswith("custom_token_bans")


@pytest.mark.parametrize(
    "field",
    [{"echo": True}, {"suffix": "x"}, {"input_prefix": "x"}, {"post_sampling_probs": True}, {"n_keep": 5}],
)
def test_what_cannot_be_honoured_is_refused(field: dict[str, Any]) -> None:
    assert refusal(**field).param == next(iter(field))


def test_what_changes_nothing_is_named() -> None:
    fields = {"return_progress": True, "id_slot": 1, "t_max_prompt_ms": 500, "n_cache_reuse": 8, "api_server": "x"}
    assert complete(**fields).options.ignored == tuple(sorted(fields))
    with pytest.raises(UnsupportedParameter, match="STRICT_PARAMETERS"):
        parse_completion({"prompt": "a", "id_slot": 1}, Defaults(strict=True))


def test_a_request_of_sillytavern_is_honoured_but_for_what_changes_nothing() -> None:
    """What SillyTavern 1.19 sends for a llama.cpp server with the settings of a new user."""
    call = complete(
        model="",
        max_new_tokens=40,
        max_tokens=40,
        n_predict=40,
        num_predict=40,
        logprobs=10,
        n_probs=10,
        typical_p=1,
        typical=1,
        rep_pen=1.1,
        repetition_penalty=1.1,
        repeat_penalty=1.1,
        rep_pen_range=64,
        repetition_penalty_range=64,
        repeat_last_n=64,
        rep_pen_slope=1,
        skew=0,
        tfs=1,
        add_bos_token=True,
        min_tokens=0,
        smoothing_factor=0,
        smoothing_curve=1,
        max_tokens_second=0,
        truncation_length=2048,
        num_ctx=2048,
        ban_eos_token=False,
        ignore_eos=False,
        skip_special_tokens=True,
        include_reasoning=True,
        mirostat_mode=0,
        mirostat=0,
        custom_token_bans="",
        banned_strings=[],
        api_type="llamacpp",
        api_server="http://127.0.0.1:8000",
        nsigma=0,
        top_n_sigma=0,
        guidance_scale=1,
        negative_prompt="",
        logit_bias=[],
        grammar="",
        cache_prompt=True,
        n=1,
        samplers=["penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "adaptive_p"],
        stop=["\nUser:"],
        stopping_strings=["\nUser:"],
        dry_sequence_breakers=["\n", ":"],
    )
    assert call.model is None
    assert call.options.max_tokens == 40
    ignored = ("api_server", "api_type", "include_reasoning", "num_ctx", "truncation_length")
    assert call.options.ignored == ignored


def test_a_gap_has_a_text_before_and_after_it() -> None:
    call = fill(prompt="c", input_extra=[{"text": "x"}, {"text": "y", "filename": "y.py"}], n_predict=3)
    assert (call.prefix, call.suffix, call.begun, call.options.max_tokens) == ("a", "b", "c", 3)
    assert call.extra == (ExtraText("x", "tmp"), ExtraText("y", "y.py"))
    assert call.fits_context
    assert fill().extra == ()
    assert parse_infill({"input_prefix": "", "input_suffix": ""}, Defaults(spm_infill=True)).suffix_first


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"input_prefix": None}, "input_prefix"),
        ({"input_suffix": 5}, "input_suffix"),
        ({"prompt": ["a"]}, "prompt"),
        ({"input_extra": {}}, "input_extra"),
        ({"input_extra": [{}]}, "input_extra.0.text"),
        ({"input_extra": [{"text": "a", "filename": 1}]}, "input_extra.0.filename"),
        ({"input_extra": ["a"]}, "input_extra.0"),
        ({"echo": True}, "echo"),
    ],
)
def test_a_wrong_field_of_a_gap_is_named(field: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        fill(**field)
    assert refused.value.param == param


def test_lines_end_the_answer_of_an_editor() -> None:
    assert fill(n_indent=4, t_max_predict_ms=500, t_max_prompt_ms=500).options.lines == LineLimits(4, 0.5)
    assert fill(n_indent=0, t_max_predict_ms=-1).options.lines is None
    assert complete(t_max_predict_ms=0).options.lines is None
    assert refusal(n_indent=-1).param == "n_indent"

"""Tests of how the bodies of Ollama's API become chats and completions."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, CompletionCall, Defaults, InfillCall, ReadyCall
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.ollama.errors import OLLAMA
from worker_gguf.protocol.ollama.names import IGNORED_OPTIONS, OPTIONS
from worker_gguf.protocol.ollama.requests import parse_chat, parse_generate

HELLO = {"role": "user", "content": "Hello"}
FIND = {"function": {"name": "find", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}


def chat(**fields: Any) -> ChatCall:
    call = parse_chat({"messages": [HELLO], **fields}, Defaults())
    assert isinstance(call, ChatCall)
    return call


def messages(*sent: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(message) for message in chat(messages=list(sent)).messages]


def generate(**fields: Any) -> ChatCall | CompletionCall | InfillCall:
    call = parse_generate({"prompt": "Hello", **fields}, Defaults())
    assert not isinstance(call, ReadyCall)
    return call


def test_an_answer_is_streamed_unless_the_client_wants_it_whole() -> None:
    assert chat().options.stream
    assert chat(stream=None).options.stream
    assert not chat(stream=False).options.stream
    assert generate().options.stream
    assert not generate(stream=False, raw=True).options.stream


def test_options_are_sampling_parameters_and_limits() -> None:
    options = {"temperature": 0.5, "top_k": 3, "min_p": 0.1, "repeat_last_n": 8, "mirostat": 2, "seed": 7}
    made = chat(options={**options, "num_predict": 9, "stop": ["a", "b"], "typical_p": None, "dry_multiplier": 0.5})
    sampling = made.options.sampling
    assert {name: getattr(sampling, name) for name in options} == options
    assert sampling.dry_multiplier == 0.5
    assert (made.options.max_tokens, made.options.stop, made.options.ignored) == (9, ("a", "b"), ())


@pytest.mark.parametrize("num_predict", [-1, -2])
def test_no_limit_is_the_rest_of_the_context(num_predict: int) -> None:
    assert chat(options={"num_predict": num_predict}).options.max_tokens is None


def test_without_options_the_defaults_are_those_of_the_worker() -> None:
    assert chat(options={}).options.sampling == Defaults().sampling


def test_options_of_the_start_and_unknown_ones_are_named_as_ignored() -> None:
    made = chat(options={**dict.fromkeys(IGNORED_OPTIONS, 1), "colour": 1}, keep_alive="5m", truncate=True, shift=False)
    named = [f"options.{name}" for name in (*IGNORED_OPTIONS, "colour")]
    assert made.options.ignored == tuple(sorted([*named, "keep_alive", "truncate"]))


def test_what_is_ignored_is_refused_with_strict_parameters() -> None:
    with pytest.raises(UnsupportedParameter, match=r"'options\.num_ctx' changes nothing here"):
        parse_chat({"messages": [HELLO], "options": {"num_ctx": 8192}}, Defaults(strict=True))


def test_no_option_is_both_honoured_and_ignored() -> None:
    assert not OPTIONS.keys() & IGNORED_OPTIONS.keys()


@pytest.mark.parametrize(
    ("fields", "param", "what"),
    [
        ({"options": {"temperature": -1}}, "options.temperature", "must be at least 0, not -1"),
        ({"options": {"num_predict": "x"}}, "options.num_predict", "must be an integer, not a string"),
        ({"options": {"stop": 3}}, "options.stop", "must be a string or a list"),
        ({"options": [1]}, "options", "must be an object, not a list"),
        ({"think": "none"}, "think", "must be true, false or one of low, medium, high, max"),
        ({"top_logprobs": 21}, "top_logprobs", "must be at most 20"),
        ({"messages": "x"}, "messages", "must be a list"),
        ({"messages": [{"content": "x"}]}, "messages.0.role", ""),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "must be one of"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages.0.content", "must be a string"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function", "an object"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": [1]}}]}]},
            "messages.0.tool_calls.0.function.arguments",
            "must be an object",
        ),
        ({"messages": [{**HELLO, "images": ["?"]}]}, "messages.0.images.0", "must be an image in Base64"),
        ({"tools": [{"function": {}}]}, "tools.0.function.name", ""),
        ({"format": "yaml"}, "format", ""),
        ({"n": 2}, "n", "one answer"),
        ({"_debug_render_only": True}, "_debug_render_only", "cannot be honoured"),
        ({"options": {"top_k": 1, "top_p": 1.0}, "top_k": 2}, "options.top_k", "different values"),
        ({"options": {"typical_p": 1.0, "typ_p": 0.5}}, "options.typ_p", "different values"),
    ],
)
def test_a_wrong_field_is_named_as_the_client_sent_it(fields: dict[str, Any], param: str, what: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert what in caught.value.message
    assert OLLAMA.error_body(caught.value) == {"error": caught.value.message}


def test_a_field_of_a_prompt_is_named_as_in_generate() -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate(prompt="x" * 10, system="a", format={"type": "nothing"})
    assert caught.value.param == "format"
    for fields in ({"prompt": 3}, {"images": ["?"]}, {"context": ["a"]}, {"template": "{{ .Prompt }}"}):
        with pytest.raises(InvalidRequest) as caught:
            generate(**fields)
        assert (caught.value.param or "").partition(".")[0] == next(iter(fields))


def test_calls_and_their_results_have_the_form_of_a_chat_completion() -> None:
    call = {"function": {"index": 0, "name": "find", "arguments": {"a": "ş"}}}
    assistant, result = messages(
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [call], "images": None},
        {"role": "tool", "tool_name": "find", "content": "found"},
    )
    (made,) = assistant["tool_calls"]
    assert made["function"] == {"name": "find", "arguments": '{"a": "ş"}'}
    assert assistant["reasoning_content"] == "Hm."
    assert result == {"role": "tool", "content": "found", "name": "find", "tool_call_id": made["id"]}


def test_arguments_may_be_a_text_or_absent() -> None:
    calls = [{"id": "c", "function": {"name": "a", "arguments": "{}"}}, {"id": "d", "function": {"name": "b"}}]
    (assistant,) = messages({"role": "Assistant", "tool_calls": calls})
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == ["{}", "{}"]
    assert assistant["role"] == "assistant"


def test_a_tool_needs_no_type() -> None:
    made = chat(tools=[FIND])
    assert [tool.name for tool in made.tools.offered] == ["find"]
    assert made.holds_calls


@pytest.mark.parametrize(
    ("think", "switch", "effort"),
    [(True, True, None), (False, False, None), ("high", None, "high"), ("max", None, "max")],
)
def test_thinking_is_a_switch_or_an_effort(think: object, switch: bool | None, effort: str | None) -> None:
    reasoning = chat(think=think).reasoning
    assert (reasoning.switch and reasoning.switch.value) == switch
    assert (reasoning.effort and reasoning.effort.value) == effort


def test_the_last_message_of_the_assistant_is_continued() -> None:
    begun = [HELLO, {"role": "assistant", "content": "Once"}]
    assert chat(messages=begun).continue_final_message
    assert not chat(messages=begun, add_generation_prompt=True).continue_final_message
    assert not chat(messages=[HELLO, {"role": "assistant", "content": ""}]).continue_final_message
    assert not chat().continue_final_message


def test_a_format_is_json_a_schema_or_nothing() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["b"]}}}
    for format_, kind in (("json", "json_schema"), (schema, "json_schema"), ("", None), (None, None)):
        for options in (chat(format=format_).options, generate(format=format_, raw=True).options):
            assert (options.constraint and options.constraint.kind) == kind


def test_logprobs_have_the_form_of_each_route() -> None:
    for made in (chat, generate):
        assert made(logprobs=True).options.top_logprobs == 0
        assert made(logprobs=True, top_logprobs=3).options.top_logprobs == 3
        assert made(top_logprobs=3).options.ignored == ("top_logprobs",)
    assert generate(logprobs=True, raw=True).options.top_logprobs == 0


def test_a_prompt_is_a_message_after_the_system_message() -> None:
    made = generate(system="Be brief.", context=[3, 4])
    assert isinstance(made, ChatCall)
    assert made.messages == ({"role": "system", "content": "Be brief."}, HELLO)
    assert made.before == (3, 4)


def test_a_raw_prompt_is_a_completion() -> None:
    made = generate(raw=True, think=False, options={"num_predict": 3})
    assert isinstance(made, CompletionCall)
    assert (made.prompts, made.options.max_tokens, made.options.ignored) == (("Hello",), 3, ("think",))
    for field in ({"system": "a"}, {"context": [1]}, {"template": "a"}):
        with pytest.raises(InvalidRequest):
            generate(raw=True, **field)


@pytest.mark.parametrize("more", [{"raw": True}, {"suffix": "b"}])
def test_images_have_no_place_in_a_prompt_without_a_conversation(more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        generate(images=[base64.b64encode(b"PNG").decode()], **more)
    assert caught.value.param == "images"


def test_what_has_no_place_in_an_answer_is_named_as_ignored() -> None:
    assert chat(stream_options={}, return_token_ids=True, prompt="x").options.ignored == (
        "prompt",
        "return_token_ids",
        "stream_options",
    )
    assert generate(messages=[HELLO]).options.ignored == ("messages",)


@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [
        (None, "load"),
        (0, "unload"),
        ("0", "unload"),
        ("0s", "unload"),
        ("0m0s", "unload"),
        ("5m", "load"),
        (-1, "load"),
    ],
)
def test_without_a_prompt_a_model_is_only_loaded(keep_alive: object, reason: str) -> None:
    card = ModelCard("m", 1)
    for parse, body, text in (
        (parse_chat, {"messages": []}, {"message": {"role": "assistant", "content": ""}}),
        (parse_generate, {"prompt": ""}, {"response": ""}),
    ):
        call = parse({**body, "model": "M:latest", "keep_alive": keep_alive}, Defaults())
        assert isinstance(call, ReadyCall)
        answer = call.answer(card)
        assert answer.pop("created_at").endswith("Z")
        assert answer == {"model": "M:latest", **text, "done": True, "done_reason": reason}
        assert (call.model, call.needs_model) == ("M:latest", reason == "load")
        assert call.ignored == (() if keep_alive is None else ("keep_alive",))


def test_what_has_no_effect_without_a_prompt_is_named_or_refused() -> None:
    body = {"model": "m", "options": {"num_ctx": 2048}, "stream": True}
    call = parse_generate(body, Defaults())
    assert isinstance(call, ReadyCall)
    assert call.ignored == ("options",)
    with pytest.raises(UnsupportedParameter, match="'options'"):
        parse_generate(body, Defaults(strict=True))


def test_a_suffix_makes_an_answer_fill_a_gap() -> None:
    call = generate(prompt="a", suffix="b", system="c", think=True)
    assert isinstance(call, InfillCall)
    assert (call.prefix, call.suffix) == ("a", "b")
    assert call.options.ignored == ("system", "think")

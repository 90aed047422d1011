"""Tests of whole requests with tools and reasoning, from the body to the answer, with a model of known answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.asking import ask, request
from tests.service.scripted import MARK, Letters, ScriptedMarkup, scripted_service
from worker_gguf.engine.request import Constraint, Thinking
from worker_gguf.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, UnsupportedParameter
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.observe.account import Account
from worker_gguf.observe.ending import line_of
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.route import Generation, Listing
from worker_gguf.service.request import Answer, Stream
from worker_gguf.service.service import Service

CHAT = "/v1/chat/completions"
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("find", "go")
]
CALLS = '~Let me see.~!find({"a":1})!go({})'


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


async def answered(service: Service, account: Account | None = None, **fields: Any) -> Answer:
    answer = await ask(service, "POST", CHAT, body(**fields), account)
    assert isinstance(answer, Answer)
    return answer


async def choice_of(service: Service, **fields: Any) -> dict[str, Any]:
    choice: dict[str, Any] = (await answered(service, **fields)).body["choices"][0]
    return choice


async def test_calls_and_reasoning_come_out_apart() -> None:
    with scripted_service(CALLS) as (service, _):
        choice = await choice_of(service, tools=TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "Let me see."
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in choice["message"]["tool_calls"]]
    assert calls == [("find", '{"a":1}'), ("go", "{}")]


async def test_a_stream_has_the_same_parts() -> None:
    with scripted_service(CALLS) as (service, _):
        stream = await ask(service, "POST", CHAT, body(tools=TOOLS, stream=True))
        assert isinstance(stream, Stream)
        data = b"".join([event async for event in stream.events])
    chunks = [json.loads(line[6:]) for line in data.decode().split("\n\n") if line[6:7] == "{"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "Let me see."
    assert [call["function"]["name"] for d in deltas for call in d.get("tool_calls", ()) if "id" in call] == [
        "find",
        "go",
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_reasoning_tokens_reach_the_usage_the_record_and_the_metrics() -> None:
    account = Account("http", "req_test")
    with scripted_service(CALLS) as (service, _):
        usage = (await answered(service, account, tools=TOOLS)).body["usage"]
    record = account.close(200)
    n_reasoning = len("Let me see.~")
    assert usage["completion_tokens_details"]["reasoning_tokens"] == record.reasoning_tokens == n_reasoning
    assert usage["completion_tokens"] == len(CALLS) + 1  # the end of the answer is a token, too
    assert record.tool_calls == 2
    assert (line_of(record)["reasoning_tokens"], line_of(record)["tool_calls"]) == (n_reasoning, 2)
    metrics = Metrics("test")
    metrics.observe_request(record)
    assert f"worker_gguf_reasoning_tokens_total {n_reasoning}.0" in metrics.render().decode()
    assert "worker_gguf_tool_calls_total 2.0" in metrics.render().decode()


async def test_tools_reach_the_prompt_the_parser_and_the_engine() -> None:
    markup = ScriptedMarkup()
    with scripted_service("ok", markup) as (service, requests):
        await answered(service, tools=TOOLS)
    (request,) = requests.values()
    assert len(request.prompt) == len("Tfind,go.<user>Hi<assistant>")
    assert [tool.name for tool in markup.tools] == ["find", "go"]
    assert request.constraint == Constraint("lark", f"start: call\ncall: /find|go/ <[{MARK}]>\n", ("!",), param="tools")
    assert request.thinking == Thinking("~", ("~",))
    assert request.shown == {MARK}
    assert request.sampling.logit_bias == ()


async def test_a_request_without_tools_is_split_but_not_guided() -> None:
    markup = ScriptedMarkup()
    with scripted_service("~hm~ok", markup) as (service, requests):
        message = (await choice_of(service))["message"]
    (request,) = requests.values()
    assert (message["content"], message["reasoning_content"]) == ("ok", "hm")
    assert (request.constraint, request.thinking, markup.tools) == (None, None, ())


async def test_with_none_the_tools_stay_in_the_prompt_and_no_call_can_begin() -> None:
    markup = ScriptedMarkup()
    with scripted_service("ok", markup) as (service, requests):
        await answered(service, tools=TOOLS, tool_choice="none")
    (request,) = requests.values()
    assert len(request.prompt) == len("Tfind,go.<user>Hi<assistant>")
    assert (request.constraint, markup.tools) == (None, ())
    assert request.sampling.logit_bias == ((MARK, float("-inf")),)


async def test_with_none_the_tools_leave_the_prompt_if_a_call_has_no_mark_and_there_was_none_before() -> None:
    markup = ScriptedMarkup(CallFormat(syntax="json_object", only_at_start=True))
    call = {"id": "1", "function": {"name": "go", "arguments": "{}"}}
    called = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "1"}]
    with scripted_service("ok", markup) as (service, requests):
        await answered(service, tools=TOOLS, tool_choice="none")
        assert len(requests.popitem()[1].prompt) == len("<user>Hi<assistant>")
        messages = [{"role": "user", "content": "Hi"}, *called]
        await answered(service, messages=messages, tools=TOOLS, tool_choice="none")
        assert len(requests.popitem()[1].prompt) == len("Tfind,go.<user>Hi<assistant>!go({})<tool>1<assistant>")


async def test_a_named_call_is_held_to_this_tool() -> None:
    markup = ScriptedMarkup()
    with scripted_service("!go({})", markup) as (service, requests):
        choice = await choice_of(service, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "go"}})
    (request,) = requests.values()
    assert choice["finish_reason"] == "tool_calls"
    assert [tool.name for tool in markup.uses[0].tools] == ["go"]
    assert markup.uses[0].is_required
    assert request.constraint is not None
    assert request.constraint.triggers == ()


async def test_functions_are_answered_as_functions() -> None:
    functions = [{"name": "go"}]
    with scripted_service("!go({})") as (service, requests):
        choice = await choice_of(service, functions=functions)
    assert choice["message"]["function_call"] == {"name": "go", "arguments": "{}"}
    assert choice["finish_reason"] == "function_call"
    assert len(next(iter(requests.values())).prompt) == len("Tgo.<user>Hi<assistant>")


async def test_reasoning_can_stay_in_the_content_or_be_left_out() -> None:
    for fields, content, reasoning in (
        ({"reasoning_format": "none"}, "~hm~ok", None),
        ({"reasoning_format": "deepseek-legacy"}, "~hm~ok", "hm"),
        ({"include_reasoning": False}, "ok", None),
    ):
        with scripted_service("~hm~ok") as (service, _):
            message = (await choice_of(service, **fields))["message"]
        assert (message["content"], message.get("reasoning_content")) == (content, reasoning)


async def test_hidden_reasoning_is_still_counted() -> None:
    with scripted_service("~hm~ok") as (service, _):
        usage = (await answered(service, include_reasoning=False)).body["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len("hm~")}


@pytest.mark.parametrize("fields", [{"enable_thinking": False}, {"reasoning_effort": "none"}])
async def test_thinking_is_turned_off_by_the_switch_of_the_template(fields: dict[str, Any]) -> None:
    with scripted_service("ok") as (service, requests):
        answer = await answered(service, **fields)
    (request,) = requests.values()
    assert len(request.prompt) == len("<user>Hi<assistant>~~")
    assert (request.thinking, answer.ignored) == (None, ())


async def test_a_budget_reaches_the_engine() -> None:
    for fields, budget in (({"thinking_budget": 7}, 7), ({"thinking": {"type": "enabled", "budget_tokens": 0}}, 0)):
        with scripted_service("ok") as (service, requests):
            await answered(service, reasoning_budget_message="Enough.", **fields)
        (request,) = requests.values()
        assert request.thinking == Thinking("~", ("~",), budget=budget, message="Enough.")


async def test_a_model_without_a_switch_is_made_to_end_its_thinking_at_once() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with scripted_service("ok", template=template) as (service, requests):
        answer = await answered(service, reasoning_effort="none", thinking_budget=50)
    (request,) = requests.values()
    assert request.thinking == Thinking("~", ("~",), budget=0)
    assert answer.ignored == ()


async def test_a_model_that_does_not_think_ignores_all_of_it_by_name() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    fields: dict[str, Any] = {"enable_thinking": True, "reasoning": {"effort": "high"}, "thinking_budget": 5}
    with scripted_service("ok", ScriptedMarkup(thinking=None), template=template) as (service, _):
        answer = await answered(service, **fields)
        assert sorted(answer.ignored) == ["enable_thinking", "reasoning.effort", "thinking_budget"]
    with (
        scripted_service("ok", ScriptedMarkup(thinking=None), template=template, strict=True) as (service, _),
        pytest.raises(UnsupportedParameter) as refused,
    ):
        await answered(service, **fields)
    assert refused.value.param == "reasoning.effort"


async def test_tools_are_stated_where_the_template_does_not() -> None:
    markup = ScriptedMarkup(CallFormat(syntax="json_object", call_start="<tool_call>", must_be_stated=True))
    with scripted_service("ok", markup) as (service, requests):
        await answered(service, tools=TOOLS)
        stated = next(iter(requests.values())).prompt
        requests.clear()
        await answered(service, tools=TOOLS, tool_choice="none")
        unstated = next(iter(requests.values())).prompt
    assert len(stated) > len("<user>Hi<assistant>") + len(json.dumps(TOOLS[0]))
    assert len(unstated) == len("<user>Hi<assistant>")


async def test_tools_are_stated_where_the_template_writes_calls_but_lists_no_tools() -> None:
    markup = ScriptedMarkup(CallFormat(syntax="json_object", call_start="<tool_call>", must_list_tools=True))
    call = {"id": "1", "function": {"name": "go", "arguments": "{}"}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    with scripted_service("ok", markup) as (service, requests):
        await answered(service, messages=messages, tools=TOOLS)
    prompt = Letters().text(next(iter(requests.values())).prompt)
    assert prompt.startswith("Tfind,go.<system>")
    assert prompt.endswith("<user>Hi<assistant>!go({})<assistant>")


async def test_each_of_n_choices_has_a_parser_of_its_own() -> None:
    with scripted_service(CALLS) as (service, _):
        answer = await answered(service, tools=TOOLS, n=2)
    ids = [[call["id"] for call in choice["message"]["tool_calls"]] for choice in answer.body["choices"]]
    assert ids == [["call_0", "call_1"]] * 2
    assert answer.body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2 * len("Let me see.~")


async def test_a_completion_is_the_text_as_the_model_writes_it() -> None:
    with scripted_service("~hm~!go({})") as (service, requests):
        answer = await ask(service, "POST", "/v1/completions", {"prompt": "x"})
    assert isinstance(answer, Answer)
    assert answer.body["choices"][0]["text"] == "~hm~!go({})"
    (request,) = requests.values()
    assert (request.thinking, request.shown) == (None, frozenset())


async def test_what_a_user_wrote_last_is_not_the_beginning_of_an_answer() -> None:
    markup = ScriptedMarkup()
    with scripted_service("ok", markup) as (service, _):
        for fields in (
            {},
            {"add_generation_prompt": False},
            {"chat_template_kwargs": {"add_generation_prompt": False}},
        ):
            await answered(service, **fields)
    assert markup.prompts == ["<user>Hi<assistant>", "", ""]


async def test_a_message_to_continue_is_the_beginning_of_an_answer() -> None:
    markup = ScriptedMarkup()
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "~hm"}]
    with scripted_service("ok", markup) as (service, _):
        await answered(service, messages=said, add_generation_prompt=False, continue_final_message=True)
    assert markup.prompts == ["<user>Hi<assistant>~hm"]


async def test_the_length_of_a_prompt_is_checked_before_a_grammar_is_built() -> None:
    markup = ScriptedMarkup()
    with scripted_service("ok", markup) as (service, _), pytest.raises(ContextLengthExceeded):
        await answered(service, messages=[{"role": "user", "content": "a" * 100_000}], tools=TOOLS)
    assert markup.uses == []


async def test_stated_tools_have_the_schemas_of_the_client() -> None:
    markup = ScriptedMarkup(CallFormat(syntax="json_object", call_start="<tool_call>", must_be_stated=True))
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}}
    with scripted_service("ok", markup) as (service, requests):
        answer = await answered(service, tools=[{"type": "function", "name": "f", "parameters": parameters}])
    assert json.dumps(parameters) in Letters().text(next(iter(requests.values())).prompt)
    assert answer.ignored == ("tools.0.parameters.pattern",)
    assert markup.uses[0].tools[0].parameters["properties"] == {"a": {"type": "string"}}


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        (CHAT, {}, None),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 100_000}]}, ContextLengthExceeded),
        ("/v1/responses/input_tokens", {"input": "Hi"}, None),
        ("/v1/embeddings", {"input": "Hi"}, UnsupportedParameter),
        ("/tokenize", {"content": "Hi"}, None),
        ("/detokenize", {"tokens": [10**8]}, InvalidRequest),
        ("/api/chat", {"messages": []}, None),
    ],
)
async def test_the_end_of_a_request_is_told_once(
    path: str, fields: dict[str, Any], error: type[Exception] | None
) -> None:
    ended: list[None] = []
    with scripted_service("ok") as (service, _):
        asked = request("POST", path, body(**fields) if path == CHAT else fields)
        task = asked.route.task
        assert not isinstance(task, Listing)
        call = task.parse(asked.body, Defaults())
        if error is None:
            await service.perform(call, asked, lambda: ended.append(None))
        else:
            with pytest.raises(error):
                await service.perform(call, asked, lambda: ended.append(None))
    assert len(ended) == 1


async def test_the_end_of_a_whole_answer_that_fails_is_told_once() -> None:
    ended: list[None] = []
    with scripted_service("a" * 50_000) as (service, _):
        asked = request("POST", CHAT, body(timeout=0.01))
        task = asked.route.task
        assert isinstance(task, Generation)
        with pytest.raises(DeadlineExceeded):
            await service.perform(task.parse(asked.body, Defaults()), asked, lambda: ended.append(None))
    assert len(ended) == 1


async def test_an_inspection_notes_what_it_ignores() -> None:
    account = Account("http", "req_test")
    with scripted_service("ok") as (service, _):
        await ask(service, "POST", "/v1/responses/input_tokens", {"input": "Hi", "truncation": "auto"}, account)
    assert account.close(200).ignored == ("truncation",)

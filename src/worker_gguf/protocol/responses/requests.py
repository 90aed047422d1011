"""Parses the bodies of the Responses API: brings them to the form of a chat completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, Defaults, InspectionCall
from worker_gguf.protocol.names import Names, Origin
from worker_gguf.protocol.parse import chat_call
from worker_gguf.protocol.responses.bodies import InputTokensBody, ResponsesBody
from worker_gguf.protocol.responses.input_items import messages_of
from worker_gguf.protocol.screening import check_elsewhere, differing
from worker_gguf.protocol.validation import invalid, required, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["ResponsesCall", "parse_input_tokens", "parse_response"]

_LOGPROBS = "message.output_text.logprobs"
_NO_STATE = "This worker stores no responses. Send the whole conversation in 'input'."
# Parameters of a chat completion that the Responses API has in another form, or whose answer would have no place.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "messages": "Use input.",
    "response_format": "Use text.format.",
    "reasoning_effort": "Use reasoning.effort.",
    "functions": "Use tools.",
    "function_call": "Use tool_choice.",
    "logprobs": "Use top_logprobs.",
    "n": "Send one request for each answer.",
    "return_token_ids": "Use /v1/chat/completions.",
}
# Fields without effect, and the values that ask for what is done anyway.
_WITHOUT_EFFECT: Final[Mapping[str, object]] = {"store": False, "stream_options": {}, "truncation": "disabled"}
# What the fields of a chat completion that are filled from those of this API are called here.
_NAMES: Final = Names(
    {"messages": "input.", "response_format": "text.format", "response_format.json_schema": "text.format"}
)


class ResponsesCall(ChatCall, frozen=True):
    """A parsed request. `sent` has the fields of the body that the answer repeats."""

    sent: Mapping[str, Any] = {}


def parse_response(body: object, defaults: Defaults) -> ResponsesCall:
    """Parse the body of POST /v1/responses. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(ResponsesBody, fields, {})
    if checked.background:
        raise UnsupportedParameter("'background' is not supported: no answer is stored.", param="background")
    if checked.prompt is not None:
        raise UnsupportedParameter("'prompt' is not supported: there are no stored prompts.", param="prompt")
    if checked.input is None:
        raise required("input")
    chat, unread = _chat_fields(checked, fields)
    if checked.stream is not None:
        chat["stream"] = checked.stream
    names = _NAMES
    if checked.max_output_tokens is not None:
        if chat.setdefault("max_tokens", checked.max_output_tokens) != checked.max_output_tokens:
            raise differing("max_tokens", "max_output_tokens")
        names = Names({**_NAMES.own, "max_tokens": "max_output_tokens"})
    include = checked.include or []
    if checked.top_logprobs is not None or _LOGPROBS in include:
        chat |= {"logprobs": True, "top_logprobs": checked.top_logprobs or 0}
    chat |= {name: fields[name] for name in ("temperature", "top_p") if name in fields}
    # Nothing is stored, and nothing is truncated: only what asks for the other has no effect.
    unread += (name for name, asks in _WITHOUT_EFFECT.items() if name in fields and fields[name] != asks)
    unread += (f"include.{name}" for name in include if name != _LOGPROBS)
    call = chat_call(chat, defaults, Origin(names, tuple(unread)))
    return ResponsesCall(**{name: getattr(call, name) for name in ChatCall.__struct_fields__}, sent=_sent(fields))


def parse_input_tokens(body: object, defaults: Defaults) -> InspectionCall:
    """Parse the body of POST /v1/responses/input_tokens. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(InputTokensBody, fields, {})
    chat, unread = _chat_fields(checked, fields)
    if checked.truncation == "auto":
        unread.append("truncation")
    call = chat_call(chat, defaults, Origin(_NAMES, tuple(unread)))
    return InspectionCall(model=call.options.model, ignored=call.options.ignored, chat=call)


def _chat_fields(checked: InputTokensBody, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a chat completion, and the names of what has no effect in this API's own fields.

    Parameters of chat completions beside those of this API are kept.
    """
    for name in ("previous_response_id", "conversation"):
        if name in fields:
            raise UnsupportedParameter(f"'{name}' is not supported. {_NO_STATE}", param=name)
    check_elsewhere(fields, _ELSEWHERE)
    _check_tools(checked.tools or ())
    chat = {name: value for name, value in fields.items() if name not in type(checked).model_fields}
    chat["messages"], unread = _messages(checked)
    if checked.text is not None:
        chat |= _text_format(checked.text)
        unread += (f"text.{name}" for name in checked.text if name != "format" and checked.text[name] is not None)
    if checked.reasoning is not None:
        chat["reasoning"] = {name: value for name, value in checked.reasoning.items() if value is not None}
    same = ("model", "tools", "tool_choice", "parallel_tool_calls")
    return chat | {name: fields[name] for name in same if name in fields}, unread


def _check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Check that each function has a name. The common parser would miss the field of a chat completion."""
    for place, tool in enumerate(tools):
        if tool.get("type", "function") == "function" and tool.get("name", tool.get("function")) is None:
            raise required(f"tools.{place}.name")


def _messages(checked: InputTokensBody) -> tuple[list[dict[str, Any]], list[str]]:
    given = checked.input if checked.input is not None else []
    unread: list[str] = []
    if isinstance(given, str):
        messages = [{"role": "user", "content": given}]
    else:
        messages, unread = messages_of(given)
    if checked.instructions:
        messages.insert(0, {"role": "system", "content": checked.instructions})
    if not messages:
        raise invalid("input", "has no message")
    return messages, unread


def _text_format(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return `text.format` as the `response_format` of a chat completion."""
    form = text.get("format")
    if form is None:
        return {}
    if not isinstance(form, dict):
        raise invalid("text.format", "must be an object")
    match form.get("type"):
        case "text" | "json_object" as kind:
            return {"response_format": {"type": kind}}
        case "json_schema":
            schema = {name: value for name, value in form.items() if name != "type"}
            if schema.get("schema") is None:
                raise required("text.format.schema")
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case None:
            raise required("text.format.type")
        case _:
            raise invalid("text.format.type", "must be text, json_object or json_schema")


def _sent(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that an answer repeats. Tools of other types than functions are left out."""
    names = ("instructions", "metadata", "reasoning", "text", "tool_choice", "max_output_tokens", "top_logprobs")
    sent = {name: fields[name] for name in names if name in fields}
    functions = [tool for tool in fields.get("tools", ()) if tool.get("type", "function") == "function"]
    return sent | {"tools": [{"strict": False, "parameters": {}, **tool, "type": "function"} for tool in functions]}

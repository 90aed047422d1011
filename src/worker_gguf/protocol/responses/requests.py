"""Parses the bodies of the Responses API: brings them to the form of a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, Defaults, InspectionCall
from worker_gguf.protocol.parse import chat_call
from worker_gguf.protocol.responses.bodies import InputTokensBody, ResponsesBody
from worker_gguf.protocol.responses.input_items import messages_of
from worker_gguf.protocol.screening import check_strict
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


class ResponsesCall(ChatCall, frozen=True):
    """A parsed request. `sent` has the fields of the body that the answer repeats."""

    sent: Mapping[str, Any] = {}


def parse_response(body: object, defaults: Defaults) -> ResponsesCall:
    """Parse the body of POST /v1/responses. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(ResponsesBody, fields, {})
    ignored: list[str] = [name for name in ("store", "stream_options", "truncation") if name in fields]
    if checked.background:
        raise UnsupportedParameter("'background' is not supported: no answer is stored.", param="background")
    if checked.prompt is not None:
        raise UnsupportedParameter("'prompt' is not supported: there are no stored prompts.", param="prompt")
    ignored += [f"include.{name[:200]}" for name in checked.include or () if name != _LOGPROBS]
    if checked.input is None:
        raise required("input")
    chat = _chat_fields(checked, fields, ignored)
    if checked.stream is not None:
        chat["stream"] = checked.stream
    if checked.max_output_tokens is not None:
        chat["max_tokens"] = checked.max_output_tokens
    if checked.top_logprobs is not None or _LOGPROBS in (checked.include or ()):
        chat |= {"logprobs": True, "top_logprobs": checked.top_logprobs or 0}
    chat |= {name: fields[name] for name in ("temperature", "top_p") if name in fields}
    call = _call(chat, ignored, defaults)
    return ResponsesCall(**{name: getattr(call, name) for name in ChatCall.__struct_fields__}, sent=_sent(fields))


def parse_input_tokens(body: object, defaults: Defaults) -> InspectionCall:
    """Parse the body of POST /v1/responses/input_tokens. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(InputTokensBody, fields, {})
    ignored = ["truncation"] if "truncation" in fields else []
    call = _call(_chat_fields(checked, fields, ignored), ignored, defaults)
    return InspectionCall(model=call.options.model, ignored=call.options.ignored, chat=call)


def _call(chat: Mapping[str, Any], ignored: list[str], defaults: Defaults) -> ChatCall:
    if defaults.strict:
        check_strict(ignored)
    call = chat_call(chat, defaults)
    options = replace(call.options, ignored=tuple(sorted({*call.options.ignored, *ignored})))
    return replace(call, options=options)


def _chat_fields(checked: InputTokensBody, fields: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Return the fields of a chat completion. Parameters of chat completions beside those of this API are kept."""
    for name in ("previous_response_id", "conversation"):
        if name in fields:
            raise UnsupportedParameter(f"'{name}' is not supported. {_NO_STATE}", param=name)
    if found := next((name for name in _ELSEWHERE if name in fields), None):
        raise UnsupportedParameter(f"'{found}' has no meaning here. {_ELSEWHERE[found]}", param=found)
    chat = {name: value for name, value in fields.items() if name not in type(checked).model_fields}
    chat["messages"] = _messages(checked, ignored)
    if checked.text is not None:
        chat |= _text_format(checked.text, ignored)
    if checked.reasoning is not None:
        chat["reasoning"] = {name: value for name, value in checked.reasoning.items() if value is not None}
    same = ("model", "tools", "tool_choice", "parallel_tool_calls")
    return chat | {name: fields[name] for name in same if name in fields}


def _messages(checked: InputTokensBody, ignored: list[str]) -> list[dict[str, Any]]:
    given = checked.input if checked.input is not None else []
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else messages_of(given, ignored)
    if checked.instructions:
        messages.insert(0, {"role": "system", "content": checked.instructions})
    if not messages:
        raise invalid("input", "has no message")
    return messages


def _text_format(text: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Return `text.format` as the `response_format` of a chat completion."""
    ignored += sorted(f"text.{name}" for name in text if name != "format" and text[name] is not None)
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

"""Parses the bodies of Anthropic's two routes, and answers the one that counts the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker_gguf.protocol.anthropic.bodies import CountTokensBody, MessagesBody
from worker_gguf.protocol.anthropic.conversation import read_conversation
from worker_gguf.protocol.anthropic.rendering import render_message
from worker_gguf.protocol.anthropic.tools import read_tool_choice, read_tools
from worker_gguf.protocol.calls import ChatCall, Defaults, InspectionCall
from worker_gguf.protocol.names import Names, Origin
from worker_gguf.protocol.parse import chat_call
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.route import Generation, Inspection, Inspector, n_prompt_tokens
from worker_gguf.protocol.screening import check_elsewhere, differing
from worker_gguf.protocol.validation import invalid, required, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["COUNT_TOKENS", "MESSAGES", "parse_count", "parse_message"]

# Parameters of a chat completion that this API has in another form, or whose answer would have no place.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "response_format": "Use output_config.format.",
    "reasoning_effort": "Use output_config.effort.",
    "functions": "Use tools.",
    "function_call": "Use tool_choice.",
    "parallel_tool_calls": "Use tool_choice.disable_parallel_tool_use.",
    "n": "Send one request for each answer.",
    **dict.fromkeys(("logprobs", "top_logprobs", "n_probs", "return_token_ids"), "Use /v1/chat/completions."),
}
_CONVERTED = frozenset(
    {"messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format", "stream_options"}
)


def parse_message(body: object, defaults: Defaults) -> ChatCall:
    """Parse the body of POST /v1/messages. Raises InvalidRequest."""
    fields = read_object(body)
    call = _call(fields, defaults, MessagesBody)
    if call.messages[-1]["role"] == "assistant":
        _check_continued(fields["messages"])
    return call


def parse_count(body: object, defaults: Defaults) -> InspectionCall:
    """Parse the body of POST /v1/messages/count_tokens. Raises InvalidRequest."""
    call = _call(read_object(body), defaults, CountTokensBody)
    return InspectionCall(model=call.model, ignored=call.options.ignored, chat=call)


def _count(call: InspectionCall, inspector: Inspector) -> JsonBody:
    return {"input_tokens": n_prompt_tokens(call, inspector)}


def _call(fields: Mapping[str, Any], defaults: Defaults, body: type[CountTokensBody]) -> ChatCall:
    validated(body, fields, {})
    check_elsewhere(fields, _ELSEWHERE)
    messages, ignored = read_conversation(fields)
    tools, unread_in_tools = read_tools(fields.get("tools", ()))
    choice, unread_in_choice = read_tool_choice(fields["tool_choice"]) if "tool_choice" in fields else ({}, [])
    output, unread_in_output = _output(fields)
    thinking, unread_in_thinking = _thinking(fields)
    common = {name: value for name, value in fields.items() if name not in _CONVERTED}
    common |= {"messages": messages, **choice, **output, **thinking}
    if "tools" in fields:
        common["tools"] = tools
    ignored += (*unread_in_tools, *unread_in_choice, *unread_in_output, *unread_in_thinking)
    ignored += {"stream_options"} & fields.keys()
    if _is_to_continue(messages[-1]):
        common.setdefault("continue_final_message", True)
    return chat_call(common, defaults, Origin(_names(fields), tuple(ignored)))


def _names(fields: Mapping[str, Any]) -> Names:
    """Return what the fields that this dialect fills were called in a request."""
    names = {
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use.",
        "reasoning_effort": "output_config.effort",
        "response_format": f"{_format_name(fields)}.",
        "response_format.json_schema.schema": f"{_format_name(fields)}.schema",
        "tools.*.parameters": "tools.*.input_schema",
    }
    return Names(names if "include_reasoning" in fields else names | {"include_reasoning": "thinking.display."})


def _thinking(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that express a wish for thinking in the common form, and the names of those without effect.

    Raises InvalidRequest.
    """
    kept = {name: value for name, value in fields.get("thinking", {}).items() if value is not None}
    if not kept:
        return {}, []
    wishes: dict[str, Any] = {}
    ignored: list[str] = []
    match kept.pop("display", None):
        case "omitted":
            if fields.get("include_reasoning"):
                raise differing("include_reasoning", "thinking.display")
            wishes["include_reasoning"] = False
        case "summarized":  # it is shown as the model writes it
            ignored.append("thinking.display")
        case None:
            pass
        case _:
            raise invalid("thinking.display", "must be 'summarized' or 'omitted'")
    if kept.get("type") == "between_tools":
        ignored.append("thinking.type")
        del kept["type"]
    return wishes | {"thinking": kept}, ignored


def _is_off(fields: Mapping[str, Any]) -> bool:
    return bool(fields.get("thinking", {}).get("type") == "disabled")


def _output(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that express the form of the answer in the common form, and the names of those without effect.

    Raises InvalidRequest.
    """
    config = {name: value for name, value in fields.get("output_config", {}).items() if value is not None}
    output: dict[str, Any] = {}
    ignored = [f"output_config.{name}" for name in config if name not in ("effort", "format")]
    if "effort" in config:
        if not isinstance(config["effort"], str):
            raise invalid("output_config.effort", "must be a string")
        if _is_off(fields):
            ignored.append("output_config.effort")
        else:
            output["reasoning_effort"] = config["effort"]
    older = fields.get("output_format")
    if older is not None and config.get("format", older) != older:
        raise invalid("output_format", "differs from output_config.format; send one of them")
    if (wanted := config.get("format", older)) is not None:
        output["response_format"] = _format(_format_name(fields), wanted)
    return output, ignored


def _format_name(fields: Mapping[str, Any]) -> str:
    """Return the name of the field that has the format of the answer."""
    is_older = "output_format" in fields and fields.get("output_config", {}).get("format") is None
    return "output_format" if is_older else "output_config.format"


def _format(param: str, wanted: object) -> dict[str, Any]:
    if not isinstance(wanted, dict):
        raise invalid(param, "must be an object")
    if wanted.get("type") != "json_schema":
        raise invalid(f"{param}.type", "must be 'json_schema'")
    schema = wanted.get("schema")
    if schema is None:
        raise required(f"{param}.schema")
    if not isinstance(schema, dict):
        raise invalid(f"{param}.schema", "must be an object")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _is_to_continue(last: Mapping[str, Any]) -> bool:
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _check_continued(turns: list[Mapping[str, Any]]) -> None:
    """Check that the last message, which is the assistant's, ends with a text. Raises InvalidRequest."""
    content = turns[-1]["content"]
    if isinstance(content, list) and (not content or content[-1].get("type") != "text"):
        param = f"messages.{len(turns) - 1}.content"
        raise invalid(param, "must end with a text that the answer continues, or be followed by a message of the user")


MESSAGES: Final = Generation("msg_", MessagesBody, parse_message, render_message)
COUNT_TOKENS: Final = Inspection(CountTokensBody, parse_count, _count, ("completion",))

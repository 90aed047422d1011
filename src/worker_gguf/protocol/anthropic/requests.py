"""Parses the bodies of Anthropic's two routes, and answers the one that counts the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.anthropic.blocks import Blocks
from worker_gguf.protocol.anthropic.bodies import CountTokensBody, MessagesBody
from worker_gguf.protocol.anthropic.conversation import read_conversation
from worker_gguf.protocol.anthropic.rendering import render_message
from worker_gguf.protocol.anthropic.tools import read_tool_choice, read_tools
from worker_gguf.protocol.calls import ChatCall, Defaults, InspectionCall
from worker_gguf.protocol.parse import chat_call
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.route import Generation, Inspection, Inspector
from worker_gguf.protocol.screening import check_strict
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
_CONVERTED = frozenset({"messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format"})


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
    assert call.chat is not None
    return {"input_tokens": len(inspector.prompt_tokens(call.chat)[0])}


def _call(fields: Mapping[str, Any], defaults: Defaults, body: type[CountTokensBody]) -> ChatCall:
    validated(body, fields, {})
    if found := next((name for name in _ELSEWHERE if name in fields), None):
        # Without quotes: `Dialect.names` has another name for some of these.
        raise UnsupportedParameter(f"The field {found} has no meaning here. {_ELSEWHERE[found]}", param=found)
    blocks = Blocks()
    messages = read_conversation(fields, blocks)
    ignored = [*blocks.ignored, *(["stream_options"] if "stream_options" in fields else ())]
    common = {name: value for name, value in fields.items() if name not in {*_CONVERTED, "stream_options"}}
    common["messages"] = messages
    if "tools" in fields:
        common["tools"] = read_tools(fields["tools"], ignored)
    if "tool_choice" in fields:
        common |= read_tool_choice(fields["tool_choice"], ignored)
    common |= _output(fields, ignored) | _thinking(fields.get("thinking", {}), ignored)
    if _is_off(fields) and common.pop("reasoning_effort", None) is not None:
        ignored.append("output_config.effort")
    if _is_to_continue(messages[-1]):
        common.setdefault("continue_final_message", True)
    call = chat_call(common, defaults)
    if defaults.strict:
        check_strict(ignored)
    named = tuple(sorted({*call.options.ignored, *ignored}))
    return replace(call, options=replace(call.options, ignored=named))


def _thinking(thinking: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Return the fields that express a wish for thinking in the common form. Raises InvalidRequest."""
    if not thinking:
        return {}
    kept = {name: value for name, value in thinking.items() if value is not None}
    fields: dict[str, Any] = {}
    match kept.pop("display", None):
        case "omitted":
            fields["include_reasoning"] = False
        case "summarized":  # it is shown as the model writes it
            ignored.append("thinking.display")
        case None:
            pass
        case _:
            raise invalid("thinking.display", "must be 'summarized' or 'omitted'")
    if kept.get("type") == "between_tools":
        ignored.append("thinking.type")
        del kept["type"]
    return fields | {"thinking": kept}


def _is_off(fields: Mapping[str, Any]) -> bool:
    return bool(fields.get("thinking", {}).get("type") == "disabled")


def _output(fields: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Return the fields that express the form of the answer in the common form. Raises InvalidRequest."""
    config = {name: value for name, value in fields.get("output_config", {}).items() if value is not None}
    output: dict[str, Any] = {}
    if "effort" in config:
        if not isinstance(config["effort"], str):
            raise invalid("output_config.effort", "must be a string")
        output["reasoning_effort"] = config["effort"]
    ignored += (f"output_config.{name[:64]}" for name in config if name not in ("effort", "format"))
    older = fields.get("output_format")
    if older is not None and config.get("format", older) != older:
        raise invalid("output_format", "differs from output_config.format; send one of them")
    param = "output_format" if "format" not in config else "output_config.format"
    if (wanted := config.get("format", older)) is not None:
        output["response_format"] = _format(param, wanted)
    return output


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

"""Parses the bodies of Ollama's two routes that generate: chat and generate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Call, ChatCall, CompletionCall, Defaults, InfillCall, ReadyCall
from worker_gguf.protocol.ollama.bodies import OllamaChat, OllamaGenerate
from worker_gguf.protocol.ollama.messages import chat_messages, chat_tools, ends_with_a_beginning, with_pictures
from worker_gguf.protocol.ollama.options import further_fields, read_options
from worker_gguf.protocol.ollama.rendering import loaded_chat, loaded_generate, render_chat, render_generate
from worker_gguf.protocol.parse import chat_call, completion_call
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.route import Generation
from worker_gguf.protocol.screening import check_strict, differing
from worker_gguf.protocol.validation import invalid, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["CHAT", "GENERATE", "parse_chat", "parse_generate"]

_DEBUG = "_debug_render_only"
_CHAT_FIELDS: Final = frozenset({*OllamaChat.model_fields, _DEBUG})
_GENERATE_FIELDS: Final = frozenset({*OllamaGenerate.model_fields, _DEBUG})
_EFFORTS: Final = ("low", "medium", "high", "max")
_READ_WITHOUT_PROMPT: Final = frozenset({"model", "messages", "prompt", "stream"})

Made = TypeVar("Made", bound=ChatCall | CompletionCall | InfillCall)


def parse_chat(body: object, defaults: Defaults) -> Call | ReadyCall:
    """Parse the body of POST /api/chat. Raises InvalidRequest."""
    fields = read_object(body)
    chat = validated(OllamaChat, fields, {})
    if not chat.messages:
        return _ready(fields, loaded_chat, defaults)
    common, ignored = _common(chat, fields, _CHAT_FIELDS)
    common["messages"] = chat_messages(fields["messages"])
    if chat.tools:
        common["tools"] = chat_tools(fields["tools"])
    _continue_beginning(common)
    return _with_ignored(_chat(chat, common, defaults), ignored, defaults)


def parse_generate(body: object, defaults: Defaults) -> Call | ReadyCall:
    """Parse the body of POST /api/generate. Raises InvalidRequest."""
    fields = read_object(body)
    generate = validated(OllamaGenerate, fields, {})
    if not generate.prompt and not generate.suffix and not generate.images:
        return _ready(fields, loaded_generate, defaults)
    common, ignored = _common(generate, fields, _GENERATE_FIELDS)
    if generate.template:
        common["template"] = generate.template
    if generate.raw or generate.suffix:
        return _with_ignored(_completion(generate, common, ignored, defaults), ignored, defaults)
    system = [{"role": "system", "content": generate.system}] if generate.system else []
    content = with_pictures("images", generate.images, generate.prompt or "")
    common["messages"] = [*system, {"role": "user", "content": content}]
    call = replace(_chat(generate, common, defaults), before=tuple(generate.context or ()))
    return _with_ignored(call, ignored, defaults)


def _completion(
    generate: OllamaGenerate, common: dict[str, Any], ignored: set[str], defaults: Defaults
) -> CompletionCall | InfillCall:
    """Parse a prompt that is continued as it is, or the text before a suffix."""
    if generate.raw and (generate.system or generate.template or generate.context):
        raise InvalidRequest("With 'raw', no template, system message or context can be used.", param="raw")
    if generate.images:
        raise UnsupportedParameter("Images have no place in a prompt with 'raw' or 'suffix'.", param="images")
    ignored |= {name for name in ("system", "context") if generate.suffix and getattr(generate, name)}
    if generate.think is not None:
        ignored.add("think")
    if generate.suffix:
        common["suffix"] = generate.suffix
    if generate.logprobs:
        common["logprobs"] = generate.top_logprobs or 0
    return completion_call(common | {"prompt": generate.prompt or ""}, defaults)


def _common(
    body: OllamaChat | OllamaGenerate, fields: Mapping[str, Any], own: frozenset[str]
) -> tuple[dict[str, Any], set[str]]:
    """Return the fields that both routes have in common, and the names of those without effect."""
    if fields.get(_DEBUG):
        raise UnsupportedParameter(f"'{_DEBUG}' cannot be honoured here. Leave it out.", param=_DEBUG)
    options, ignored_options = read_options(body.options)
    further, ignored = further_fields(fields, own)
    for name, value in options.items():
        if further.setdefault(name, value) != value:
            raise differing(name, f"options.{name}")
    ignored |= ignored_options | {name for name in ("truncate", "shift") if getattr(body, name)}
    ignored |= {"keep_alive"} & fields.keys()
    if body.top_logprobs and not body.logprobs:
        ignored.add("top_logprobs")
    given = {"model": body.model, "format": body.format}
    common = further | {name: value for name, value in given.items() if value is not None}
    return common | {"stream": body.stream is not False}, ignored


def _chat(body: OllamaChat | OllamaGenerate, common: dict[str, Any], defaults: Defaults) -> ChatCall:
    """Parse a conversation. A line of the answer has a whole call, because its arguments are an object."""
    if isinstance(body.think, str) and body.think not in _EFFORTS:
        raise invalid("think", f"must be true, false or one of {', '.join(_EFFORTS)}")
    if body.think is not None:
        common["enable_thinking" if isinstance(body.think, bool) else "reasoning_effort"] = body.think
    if body.logprobs:
        common |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    return replace(chat_call(common, defaults), holds_calls=True)


def _continue_beginning(common: dict[str, Any]) -> None:
    """Have the model continue a last message of its own, as in Ollama, unless the client says what to do."""
    if ends_with_a_beginning(common["messages"]):
        common.setdefault("continue_final_message", "add_generation_prompt" not in common)


def _with_ignored(call: Made, ignored: set[str], defaults: Defaults) -> Made:
    """Add the names of the fields that only this dialect knows and that have no effect."""
    names = tuple(sorted({*call.options.ignored, *ignored}))
    if defaults.strict:
        check_strict(names)
    return replace(call, options=replace(call.options, ignored=names))


def _ready(fields: Mapping[str, Any], answer: Callable[..., JsonBody], defaults: Defaults) -> ReadyCall:
    """Return the call for a request without a prompt, which only loads the model or gives it back."""
    unloads = _is_no_time(fields.get("keep_alive"))
    ignored = tuple(sorted(fields.keys() - _READ_WITHOUT_PROMPT))
    if defaults.strict:
        check_strict(ignored)
    model = fields.get("model")
    made = partial(answer, model, "unload" if unloads else "load")
    return ReadyCall(model=model, ignored=ignored, answer=made, needs_model=not unloads)


def _is_no_time(keep_alive: float | str | None) -> bool:
    """Return whether a duration is zero. Texts have units, such as `0s` or `0h0m`."""
    if isinstance(keep_alive, str):
        return "0" in keep_alive and not keep_alive.strip("0.hmsuµn")
    return keep_alive == 0


CHAT: Final = Generation("chat-", OllamaChat, parse_chat, render_chat)
GENERATE: Final = Generation("gen-", OllamaGenerate, parse_generate, render_generate)
